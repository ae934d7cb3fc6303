"""Encode documents with responses: find the tokens of the responses, which must be the same with and without the rest.

A model reads a prompt that was encoded alone, so the ids of the text before a response must be the first ids of the whole
text. Where a token reaches over the beginning or the end of a response, the document is refused.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from data_manager.documents import Invalid, Piece
from data_manager.errors import DataError
from data_manager.text.chat import ASSISTANT, plain_chat
from data_manager.text.infill import given_ids
from data_manager.text.template import Spans
from data_manager.tokenizers.base import Tokenizer, encode_many, encode_with_ends
from data_manager.tokenizers.chat_template import hugging_face_of, render_chat, render_prompt, with_special_tokens
from data_manager.tokenizers.hugging_face import HuggingFaceTokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from data_manager.tokenizers.base import Flat

    Ends = NDArray[np.int64]
    Marks = NDArray[np.bool_]

_SHOWN = 12
"""Characters beside a boundary that a message shows."""


class Responses(NamedTuple):
    """Responses of several documents.

    `marks` are True at the tokens of responses, of all documents in one array; `closed` [documents] where the document ends
    with a response, so that its end token is a part of it; `problems` are the messages about invalid documents by number.
    """

    marks: "Marks"
    closed: "Marks"
    problems: dict[int, str]


class _Segment(NamedTuple):
    """Text that is encoded at once, with the spans of its responses."""

    text: str
    spans: Spans

    def boundaries(self) -> list[int]:
        """Return where parts begin or end, with the beginning and the end of the text."""
        return [0, *(place for span in self.spans for place in span), len(self.text)]

    def parts(self) -> list[str]:
        """Return the parts of the text: given, response, given, and so on; each may be empty."""
        edges = self.boundaries()
        return [self.text[begin:end] for begin, end in pairwise(edges)]


@dataclass
class _Tokens:
    """Ids of tokens, which of them are of responses, and where they end in the text, if that is kept."""

    ids: list[int]
    marks: list[bool]
    ends: list[int]

    def add(self, ids: list[int], marks: list[bool], ends: list[int]) -> None:
        """Append tokens."""
        self.ids += ids
        self.marks += marks
        self.ends += ends

    def without(self, bos: int, eos: int) -> "_Tokens":
        """Return the tokens without those that every row has at its beginning and end."""
        first = int(self.ids[:1] == [bos])
        last = len(self.ids) - int(self.ids[first:][-1:] == [eos])
        return _Tokens(self.ids[first:last], self.marks[first:last], self.ends[first:last])


def written_conversations(pieces: Iterable[Piece], tokenizer: Tokenizer, invalid: Invalid) -> Iterator[Piece]:
    """Yield pieces, those with messages in the format of the tokenizer's chat template, where it has one."""
    for piece in pieces:
        own = hugging_face_of(tokenizer) if piece.messages else None
        if own is not None:
            try:
                text, spans = render_chat(own, piece.messages)
            except ValueError as error:
                invalid(piece.place, "messages that the chat template does not take", str(error))
                continue
            yield piece._replace(texts=(text,), responses=spans, messages=(), chat="template")
        elif piece.chat == "template":
            raise DataError(f"{piece.place}: chat: template needs a hugging_face tokenizer; write chat: plain")
        else:
            yield piece._replace(messages=())


def encode_responses(
    tokenizer: Tokenizer, pieces: Sequence[Piece], *, with_ends: bool
) -> "tuple[Flat, Ends | None, Responses]":
    """Encode documents with responses; return ids and lengths, where tokens end with `with_ends`, and the responses."""
    special = hugging_face_of(tokenizer)
    if special is not None and pieces[0].chat == "template":
        tokenizer = with_special_tokens(special)
    segments = [_segments(piece) for piece in pieces]
    every = [segment for own in segments for segment in own]
    ids, ends = _encode(tokenizer, [segment.text for segment in every], with_ends)
    marks, wrong = _find_marks(tokenizer, every, ids)
    tokens, first, begin = _Tokens([], [], []), 0, 0
    lengths, closed, problems = list[int](), list[bool](), dict[int, str]()
    for index, (piece, own) in enumerate(zip(pieces, segments, strict=True)):
        found = _Tokens([], [], [])
        for number, segment in enumerate(own, first):
            if number > first:  # the end of a response inside a conversation
                found.add([tokenizer.eos_token_id], [True], [begin])
            found.add(ids[number], marks[number], [begin + end for end in ends[number]] if with_ends else [])
            begin += _size(segment.text)
            problems |= {index: wrong[number]} if number in wrong else {}
        first += len(own)
        if (message := _mask_token(special, found.ids)) is not None:
            problems.setdefault(index, message)
        if with_ends:
            found.ends = _text_ends(special, piece, found, begin)
        if piece.chat == "template":
            found = found.without(tokenizer.bos_token_id, tokenizer.eos_token_id)
        tokens.add(found.ids, found.marks, found.ends)
        lengths.append(len(found.ids))
        closed.append(bool(piece.responses and piece.responses[-1][1] == len(piece.texts[0])))
    flat = np.array(tokens.ids, np.int32), np.array(lengths, np.int64)
    responses = Responses(np.array(tokens.marks, np.bool_), np.array(closed, np.bool_), problems)
    return flat, np.array(tokens.ends, np.int64) if with_ends else None, responses


def encode_prompt(
    tokenizer: Tokenizer, messages: Sequence[tuple[str, str]], chat: Literal["plain", "template"] | None = None
) -> list[int]:
    """Return the ids of a row up to the assistant's next message, after the (role, content) `messages`.

    They are the first ids of the row of a longer conversation, in the format `chat` of its data set. Raises ValueError for
    messages that the tokenizer's chat template does not take.
    """
    bos, own = tokenizer.bos_token_id, hugging_face_of(tokenizer)
    if own is not None and chat != "plain":
        ids = with_special_tokens(own).encode(render_prompt(own, messages))
        return ids if ids[:1] == [bos] else [bos, *ids]
    text, spans = plain_chat([*messages, (ASSISTANT, "")])
    (found, _), *_ = encode_responses(
        tokenizer, [Piece((text,), "", 0, responses=spans, chat="plain")], with_ends=False
    )
    return [bos, *found.tolist()]


def encode_holes(
    tokenizer: Tokenizer, pieces: Sequence[Piece], *, with_ends: bool
) -> "tuple[Flat, Ends | None, Responses]":
    """Encode documents with a hole to prefix, suffix and middle, see `data_manager.text.infill`; the middle is the response.

    Returns the same as `encode_responses`. A separator ends where the part after it begins.
    """
    texts, spans = [piece.texts[0] for piece in pieces], [piece.hole or (0, 0) for piece in pieces]
    cut = [(text[:begin], text[end:], text[begin:end]) for text, (begin, end) in zip(texts, spans, strict=True)]
    ids, ends = _encode(tokenizer, [part for parts in cut for part in parts], with_ends)
    tokens, lengths, offset = _Tokens([], [], []), list[int](), 0
    for index, (text, span) in enumerate(zip(texts, spans, strict=True)):
        prefix, suffix, middle = ids[3 * index : 3 * index + 3]
        given, places = given_ids(tokenizer.bos_token_id, prefix, suffix), list[int]()
        if with_ends:
            begin, end = (offset + _size(text[:edge]) for edge in span)
            before, after, inside = ends[3 * index : 3 * index + 3]
            places = [*(offset + at for at in before), end, *(end + at for at in after), begin]
            places += [begin + at for at in inside]
        tokens.add([*given, *middle], [False] * len(given) + [True] * len(middle), places)
        lengths.append(len(given) + len(middle))
        offset += _size(text)
    flat = np.array(tokens.ids, np.int32), np.array(lengths, np.int64)
    responses = Responses(np.array(tokens.marks, np.bool_), np.ones(len(pieces), np.bool_), {})
    return flat, np.array(tokens.ends, np.int64) if with_ends else None, responses


def _segments(piece: Piece) -> list[_Segment]:
    """Return the texts that are encoded at once: all of it, or in the plain format of conversations each turn."""
    text, spans = piece.texts[0], piece.responses or ()
    if piece.chat != "plain":
        return [_Segment(text, spans)]
    found, begin = list[_Segment](), 0
    for start, end in spans:
        found.append(_Segment(text[begin:end], ((start - begin, end - begin),)))
        begin = end
    return found


def _encode(tokenizer: Tokenizer, texts: Sequence[str], with_ends: bool) -> tuple[list[list[int]], list[list[int]]]:
    """Return the ids of each text, and with `with_ends` where its tokens end, in bytes of the text."""
    if not with_ends:
        return _lists(encode_many(tokenizer, texts)), []
    ids, lengths, ends = encode_with_ends(tokenizer, texts)
    sizes = np.cumsum([0, *map(_size, texts)])
    places = np.split(ends, np.cumsum(lengths)[:-1]) if len(texts) else []
    return _lists((ids, lengths)), [(own - size).tolist() for own, size in zip(places, sizes, strict=False)]


def _lists(found: "Flat") -> list[list[int]]:
    ids, lengths = found
    return [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])] if len(lengths) else []


def _find_marks(
    tokenizer: Tokenizer, segments: Sequence[_Segment], ids: Sequence[list[int]]
) -> tuple[list[list[bool]], dict[int, str]]:
    """Return for each segment which of its tokens are of a response, and the problems by number.

    Most tokenizers encode the parts to the same ids. Others put a mark before a text, so the beginnings of the text up to
    each boundary are encoded.
    """
    parts = [segment.parts() for segment in segments]
    encoded = iter(_lists(encode_many(tokenizer, [part for own in parts for part in own])))
    marks: list[list[bool]] = []
    slow: list[int] = []
    for number, own in enumerate(parts):
        pieces = [next(encoded) for _ in own]
        marks.append([bool(place % 2) for place, tokens in enumerate(pieces) for _ in tokens])
        if [token for tokens in pieces for token in tokens] != ids[number]:
            slow.append(number)
    edges = [(number, edge) for number in slow for edge in segments[number].boundaries()[1:-1]]
    beginnings = iter(_lists(encode_many(tokenizer, [segments[number].text[:edge] for number, edge in edges])))
    problems: dict[int, str] = {}
    for number in slow:
        sizes = [0]
        for edge in segments[number].boundaries()[1:-1]:
            before = next(beginnings)
            if ids[number][: len(before)] != before:
                problems.setdefault(number, _describe(segments[number], edge))
            sizes.append(len(before))
        lengths = np.diff([*sizes, len(ids[number])])
        marks[number] = [bool(place % 2) for place, count in enumerate(lengths.tolist()) for _ in range(count)]
    return marks, problems


def _describe(segment: _Segment, edge: int) -> str:
    """Return the message about a boundary that the tokens of the whole text cross."""
    before, after = segment.text[:edge], segment.text[edge:]
    begins = any(edge == start for start, _ in segment.spans)
    sides = ("prompt", "response") if begins else ("response", "text after it")
    message = (
        f"a token reaches from the {sides[0]} into the {sides[1]}, between {before[-_SHOWN:]!r} and {after[:_SHOWN]!r}: the "
        f"ids of the {sides[0]} alone are others than in the row"
    )
    if begins and before[-1:].isspace():
        return f"{message}; give the white space to the response, as in '{{question}} A:{{ answer:response}}'"
    return f"{message}; put a line break between them, or remove white space at the edges of the columns"


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _text_ends(special: HuggingFaceTokenizer | None, piece: Piece, tokens: _Tokens, end: int) -> list[int]:
    """Return where the text of tokens ends: a chat template's marks are no text, and no text follows the last token."""
    if special is None or piece.chat != "template":
        return [*tokens.ends[:-1], end] if tokens.ends else []
    found = list[int]()
    for token, place in zip(tokens.ids, tokens.ends, strict=True):
        found.append(found[-1] if found and token in special.special_ids else place)
    return found


def _mask_token(special: HuggingFaceTokenizer | None, ids: Sequence[int]) -> str | None:
    mask = None if special is None else getattr(special.inner, "mask_token_id", None)
    if mask is None or mask not in ids:
        return None
    return "holds the tokenizer's mask token, which is noise to a diffusion model; remove it from the text"
