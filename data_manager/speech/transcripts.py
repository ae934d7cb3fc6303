"""Transcripts of cuts: join and normalise them, and leave out cuts whose transcript does not fit their length."""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from data_manager.speech.augmentation_types import FilterConfig, Replacement


def transcript(cut: Any) -> str:
    """Join the texts of a cut's supervisions with spaces, ordered by time."""
    spoken = sorted(cut.supervisions, key=lambda supervision: supervision.start)
    return " ".join(supervision.text for supervision in spoken if supervision.text)


def normalise_text(text: str, steps: Sequence[str | Replacement]) -> str:
    """Apply the steps to a text in order."""
    for step in steps:
        text = re.sub(step.pattern, step.replacement, text) if isinstance(step, Replacement) else _STEPS[step](text)
    return text


def _remove_punctuation(text: str) -> str:
    """Replace punctuation by spaces, except apostrophes between letters; the spaces that are left become one each."""
    kept = []
    for index, character in enumerate(text):
        is_inside = text[index - 1 : index].isalpha() and text[index + 1 : index + 2].isalpha()
        is_mark = unicodedata.category(character).startswith("P") and not (character in "'\u2019" and is_inside)
        kept.append(" " if is_mark else character)
    return " ".join("".join(kept).split())


_STEPS: dict[str, Callable[[str], str]] = {
    "lower": str.lower,
    "upper": str.upper,
    "remove_punctuation": _remove_punctuation,
    "collapse_spaces": lambda text: " ".join(text.split()),
}


def normalise_transcripts(
    cuts: Sequence[Any], steps: Sequence[str | Replacement], where: str, notes: list[str]
) -> list[Any]:
    """Return cuts with normalised texts; those whose transcript becomes empty are left out and logged."""
    found, emptied = [], []
    for cut in cuts:
        changed = cut.map_supervisions(lambda part: part.transform_text(lambda text: normalise_text(text, steps)))
        if transcript(cut).strip() and not transcript(changed).strip():
            emptied.append(cut.id)
        else:
            found.append(changed)
    log_skipped(notes, where, "cuts are left out because normalisation leaves nothing of their text", emptied)
    return found


def filter_cuts(cuts: Sequence[Any], settings: FilterConfig, where: str, notes: list[str]) -> list[Any]:
    """Return the cuts within the limits; the others are logged by the limit."""
    found, left_out = [], {}  # type: list[Any], dict[str, list[str]]
    for cut in cuts:
        reason = next(_reasons(cut, settings), None)
        if reason is None:
            found.append(cut)
        else:
            left_out.setdefault(reason, []).append(cut.id)
    for reason, names in left_out.items():
        log_skipped(notes, where, f"cuts {reason} are left out", names)
    return found


def _reasons(cut: Any, settings: FilterConfig) -> Iterator[str]:
    rate = len(text) / cut.duration if (text := transcript(cut)) else None
    for value, low, high, unit in (
        (cut.duration, settings.min_duration, settings.max_duration, "s"),
        (rate, settings.min_characters_per_second, settings.max_characters_per_second, "characters a second"),
    ):
        if value is not None and low is not None and value < low:
            yield f"below {low:g} {unit}"
        if value is not None and high is not None and value > high:
            yield f"above {high:g} {unit}"


def log_skipped(notes: list[str], where: str, what: str, ids: Sequence[str]) -> None:
    """Log the number of cuts to which something applies, with the ids of the first."""
    if ids:
        shown = ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
        notes.append(f"{where}: {len(ids):,} {what} ({shown})")
