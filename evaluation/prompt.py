"""A prompt of a diffusion model: text to keep, and holes to be filled.

"The fox"              the text stands at the beginning, and the rest of the sample is drawn
"The [[12]] dog"       between the two texts, 12 tokens are drawn
"The [[]] the end."    as many tokens are drawn as make the sample as long as it is asked to be
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from data_manager.tokenizer_base import Tokenizer
from training.errors import UnfitError

_HOLE = re.compile(r"\[\[(\d{0,9})\]\]")
_SLIP = re.compile(r"\[\[(?:\d+|[^\[\]]{0,8})(\]{1,2}|$)")
"""What looks like a hole that was mistyped."""
_HALF = re.compile("[\ud800-\udfff]")


class PromptError(UnfitError):
    """A prompt that cannot be used."""


@dataclass(frozen=True)
class Template:
    """Tokens of a sample, and which of them are kept; what is not kept has the id 0."""

    tokens: list[int]
    kept: list[bool]

    @property
    def end(self) -> int:
        """Number of tokens up to the last that is kept."""
        return len(self.kept) - self.kept[::-1].index(True)


def read_template(prompt: str, tokenizer: Tokenizer, length: int, before: Sequence[int] = ()) -> Template:
    """A prompt as `length` tokens, `before` being tokens that stand in front; raises PromptError where it has no room."""
    refuse_halves(prompt)
    slip = _SLIP.search(without_holes(prompt))
    if slip:
        raise PromptError(f"the prompt has {slip[0][:40]!r}, and a hole of 12 tokens is [[12]], one of any size [[]]")
    pieces = _HOLE.split(prompt)  # text, size, text, size, ..., text
    if pieces[1::2].count("") > 1:
        raise PromptError("the prompt has two holes [[]] without a size; give one of them its number of tokens: [[12]]")
    texts, sizes = [tokenizer.encode(text) if text else [] for text in pieces[::2]], pieces[1::2]
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
        raise PromptError("the prompt is nothing but holes; leave --prompt out to draw the whole sample")
    return Template(tokens + [0] * rest, kept + [False] * rest)


def without_holes(prompt: str) -> str:
    """The text of a prompt alone."""
    return _HOLE.sub("", prompt)


def check_prompts(prompts: Sequence[str]) -> None:
    """Raise PromptError for a prompt that no model can begin with: an empty one, or one with half of a character."""
    if any(not prompt for prompt in prompts):
        raise PromptError("a prompt is empty; give it text, or leave it out")
    refuse_halves(*prompts)


def refuse_halves(*texts: str, what: str = "the prompt") -> None:
    """Raise PromptError for a text (or `what` it is) with half of a character, which no tokenizer of bytes can write."""
    for text in texts:
        if found := _HALF.search(text):
            raise PromptError(
                f"{what} has {found[0]!r}, half of a character that needs two (a lone surrogate); write it in UTF-8"
            )


def unknown_note(prompt: str, tokenizer: Tokenizer, what: str = "the prompt") -> str | None:
    """What to tell of a prompt (or `what` it is) with characters that the tokenizer does not know, None without any."""
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown not in tokenizer.encode(prompt):
        return None
    letters = [letter for letter in dict.fromkeys(prompt) if unknown in tokenizer.encode(letter)]
    shown = f" ({' '.join(map(repr, letters[:5]))})" if letters else ""
    return f"{what} has characters that the run's tokenizer does not know{shown}"
