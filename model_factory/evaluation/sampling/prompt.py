"""Prompts of diffusion models: text to keep, and holes to fill in.

"The fox"              the sample begins with this text, and the rest is drawn
"The [[12]] dog"       12 tokens are drawn between the two texts
"The [[]] the end."    the hole takes the rest of the sample's length
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from data_manager.tokenizers.base import Tokenizer
from model_factory.training.errors import UnfitError

_HOLE = re.compile(r"\[\[(\d{0,9})\]\]")
_TYPO = re.compile(r"\[\[(?:\d+|[^\[\]]{0,8})(\]{1,2}|$)")
"""Mistyped hole."""
_SURROGATE = re.compile("[\ud800-\udfff]")


class PromptError(UnfitError):
    """Error for an invalid prompt."""


@dataclass(frozen=True)
class Template:
    """Tokens of a sample, and which of them are kept; tokens to draw have the id 0."""

    tokens: list[int]
    kept: list[bool]

    @property
    def end(self) -> int:
        """Return the number of tokens up to the last kept one."""
        return len(self.kept) - self.kept[::-1].index(True)


def read_template(prompt: str, tokenizer: Tokenizer, length: int, before: Sequence[int] = ()) -> Template:
    """Parse a prompt to `length` tokens that begin with `before`; raises PromptError for an invalid or long prompt."""
    refuse_lone_surrogates(prompt)
    typo = _TYPO.search(without_holes(prompt))
    if typo:
        raise PromptError(
            f"the prompt has {typo[0][:40]!r}, and a hole of 12 tokens is [[12]], a hole of any size [[]]"
        )
    parts = _HOLE.split(prompt)  # text, size, text, size, ..., text
    if parts[1::2].count("") > 1:
        raise PromptError("the prompt has two holes [[]] without a size; give one of them a number of tokens: [[12]]")
    texts, sizes = [tokenizer.encode(text) if text else [] for text in parts[::2]], parts[1::2]
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


def without_holes(prompt: str) -> str:
    """Remove the holes from a prompt."""
    return _HOLE.sub("", prompt)


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


def unknown_characters_note(prompt: str, tokenizer: Tokenizer, what: str = "the prompt") -> str | None:
    """Return a note on characters that the tokenizer does not know, or None; `what` names the text."""
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown not in tokenizer.encode(prompt):
        return None
    letters = [letter for letter in dict.fromkeys(prompt) if unknown in tokenizer.encode(letter)]
    shown = f" ({' '.join(map(repr, letters[:5]))})" if letters else ""
    return f"{what} has characters that the run's tokenizer does not know{shown}"
