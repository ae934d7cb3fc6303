"""Prompts of diffusion models: text to keep, and holes to fill in.

"The fox"              the sample begins with this text, and the rest is drawn
"The [[12]] dog"       12 tokens are drawn between the two texts
"The [[]] the end."    the hole takes the rest of the sample's length
"The [[*]] the end."   a hole of unknown length, for runs that were trained on rows of `infill`, see `given`

Texts are tokenised as they would be inside a whole text, since a model has seen no other tokens: a space before a hole is
left to the hole where the tokenizer joins it to the next word, and a text after a hole continues what is drawn there.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from data_manager.tokenizers.base import Tokenizer
from model_factory.training.errors import UnfitError

_HOLE = re.compile(r"\[\[(\*|\d{0,9})\]\]")
OPEN = "*"
"""Size of a hole of unknown length."""
_TYPO = re.compile(r"\[\[(?:\d+|[^\[\]]{0,8})(\]{1,2}|$)")
"""Mistyped hole."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_LETTERS = "aehinorstwACNOST"
"""Letters in place of the unknown text of a hole."""


class PromptError(UnfitError):
    """Error for an invalid prompt."""


@dataclass(frozen=True)
class Given:
    """Tokens of a row before its response, and the texts around it; `size` is the most tokens that it may have."""

    ids: list[int]
    before: str = ""
    after: str = ""
    size: int | None = None

    def around(self, response: str) -> str:
        """Return the response between the texts that it belongs between."""
        return self.before + response + self.after


@dataclass(frozen=True)
class Template:
    """Tokens of a sample, and which of them are kept; tokens to draw have the id 0.

    `given` is set where the text of the sample is a response, which begins after the given tokens.
    """

    tokens: list[int]
    kept: list[bool]
    given: Given | None = None

    @property
    def end(self) -> int:
        """Return the number of tokens up to the last kept one."""
        return len(self.kept) - self.kept[::-1].index(True)


def read_template(prompt: str, tokenizer: Tokenizer, length: int, before: Sequence[int] = ()) -> Template:
    """Parse a prompt to `length` tokens that begin with `before`; raises PromptError for an invalid or long prompt."""
    refuse_lone_surrogates(prompt)
    parts = split_at_holes(prompt)
    if OPEN in parts[1::2]:
        raise PromptError(
            "[[*]] is a hole of unknown length, and this run was not trained on rows with such holes: it knows the texts of "
            "each length, but not how likely a length is between two texts; give the number of tokens, as in [[12]], or "
            "train a run with infill in its data set"
        )
    if parts[1::2].count("") > 1:
        raise PromptError("the prompt has two holes [[]] without a size; give one of them a number of tokens: [[12]]")
    sizes, ends = parts[1::2], parts[::2]
    texts = [encode_around_holes(text, tokenizer, after_hole=number > 0)[0] for number, text in enumerate(ends)]
    texts[0] = [*before, *texts[0]]
    fixed = sum(map(len, texts)) + sum(int(size) for size in sizes if size)
    if fixed > length:
        raise PromptError(
            f"the prompt and its holes take {fixed} tokens, and a sample has {length}; shorten it, or set --length"
        )
    tokens, kept = list(texts[0]), [True] * len(texts[0])
    for size, text in zip(sizes, texts[1:], strict=True):
        hole = int(size) if size else length - fixed
        tokens += [0] * hole + text
        kept += [False] * hole + [True] * len(text)
    rest = length - len(tokens)
    if not any(kept):
        raise PromptError("the prompt has only holes and no text; leave --prompt out to draw the whole sample")
    return Template(tokens + [0] * rest, kept + [False] * rest)


def split_at_holes(prompt: str) -> list[str]:
    """Split a prompt into text, size, text, size, ..., text; that of [[]] is empty. Raise PromptError for a mistyped hole."""
    typo = _TYPO.search(_HOLE.sub("", prompt))
    if typo:
        raise PromptError(
            f"the prompt has {typo[0][:40]!r}, and a hole of 12 tokens is [[12]], a hole of any size [[]]"
        )
    return _HOLE.split(prompt)


def check_blocks(template: Template, block_size: int) -> None:
    """Raise PromptError for a text behind a hole that a model which draws block after block cannot see."""
    if all(template.kept[: template.end]):
        return
    first = template.kept.index(False)
    size, block = template.kept.index(True, first) - first, first // block_size
    if (template.end - 1) // block_size > block:
        raise PromptError(
            f"the hole of {size} tokens at token {first + 1} is in block {block + 1}, of the tokens "
            f"{block * block_size + 1} to {(block + 1) * block_size}, and text of the prompt is in a later block: the model "
            f"draws blocks of {block_size} tokens in order (block_size {block_size}), each from those before it; end the "
            "prompt at the hole, or use a run of another objective, such as mdlm"
        )


def encode_around_holes(text: str, tokenizer: Tokenizer, *, after_hole: bool = False) -> tuple[list[int], str]:
    """Encode a text that is followed by drawn tokens; return its ids, and the spaces at its end that they leave out.

    As many spaces are left out as change their tokens with the next letter. With `after_hole` the text also follows drawn
    tokens, and is encoded as inside a word or after a space, not as the beginning of a text.
    """
    if not text:
        return [], ""

    def encode(part: str) -> list[int]:
        return _encode_behind(part, tokenizer) if after_hole and part else tokenizer.encode(part) if part else []

    for end in range(len(text), len(text.rstrip()) - 1, -1):
        ids = encode(text[:end])
        if end == len(text) and not text[-1].isspace():
            return ids, ""
        if all(encode(text + letter)[: len(ids)] == ids for letter in _LETTERS):
            return ids, text[end:]
    return encode(text), ""


def _encode_behind(text: str, tokenizer: Tokenizer) -> list[int]:
    """Encode a text behind an unknown letter: the ids that follow most letters, where a letter keeps its own."""
    alone = tokenizer.encode(text)
    found: Counter[tuple[int, ...]] = Counter()
    for letter in _LETTERS:
        first, both = tokenizer.encode(letter), tokenizer.encode(letter + text)
        joined = tokenizer.decode(first) + tokenizer.decode(alone)
        if both[: len(first)] == first and _squeeze(tokenizer.decode(both)) == _squeeze(joined):
            found[tuple(both[len(first) :])] += 1
    return list(found.most_common(1)[0][0]) if found else alone


def _squeeze(text: str) -> str:
    """Remove all whitespace, which tokenizers of words do not keep."""
    return "".join(text.split())


def texts_around_holes(prompt: str) -> list[str]:
    """Return the texts before, between and after the holes of a prompt."""
    return [text for text in _HOLE.split(prompt)[::2] if text]


def check_prompts(prompts: Sequence[str]) -> None:
    """Raise PromptError for an empty prompt and for a prompt with a lone surrogate."""
    if any(not prompt for prompt in prompts):
        raise PromptError("a prompt is empty; give it text, or leave it out")
    refuse_lone_surrogates(*prompts)


def refuse_lone_surrogates(*texts: str, what: str = "the prompt") -> None:
    """Raise PromptError for a text with a lone surrogate, which has no UTF-8 form; `what` names the text."""
    for text in texts:
        if found := _SURROGATE.search(text):
            raise PromptError(f"{what} has {found[0]!r}, half of a character (a lone surrogate); write it in UTF-8")


def unknown_characters_note(prompt: str | Sequence[str], tokenizer: Tokenizer, what: str = "the prompt") -> str | None:
    """Return a note on characters of a text, or of several, that the tokenizer does not know, or None; `what` names it."""
    texts, unknown = [prompt] if isinstance(prompt, str) else prompt, tokenizer.unk_token_id
    if unknown is None or not any(unknown in tokenizer.encode(text) for text in texts):
        return None
    letters = [letter for letter in dict.fromkeys("".join(texts)) if unknown in tokenizer.encode(letter)]
    shown = f" ({' '.join(map(repr, letters[:5]))})" if letters else ""
    return f"{what} has characters that the run's tokenizer does not know{shown}"
