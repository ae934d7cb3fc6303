"""From the cuts of a recipe to those of the data set: resampled, cut into windows, shortened, copied at other speeds.

Each step gives new cuts, reads no audio, and notes what it leaves out.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data_manager.errors import DataError
from data_manager.speech_types import LhotseDatasetConfig, SpeedConfig, SubsetConfig, WindowsConfig

Splits = dict[str, list[Any]]


def shape_splits(splits: dict[str, Any], config: LhotseDatasetConfig, notes: list[str]) -> dict[str, Any]:
    """The splits as `config` asks for them; raises DataError for settings that do not suit the corpus."""
    from lhotse import CutSet

    for settings in (config.subset, config.speed_perturbation):
        _check_splits(settings.splits if settings else None, splits, config.name)
    shaped: Splits = {}
    for split, cuts in splits.items():
        found = list(_resampled(cuts, config.features.sampling_rate))
        if config.windows is not None:
            found = _windows(found, config.windows, config.features.frame_length, split, notes)
        if config.subset is not None and split in (config.subset.splits or splits):
            found = _beginning(found, config.subset, split, notes)
        shaped[split] = found
    if config.speed_perturbation is not None:
        _add_speeds(shaped, config.speed_perturbation, config.name)
    check_rates(shaped, config.name)
    return {split: CutSet.from_cuts(cuts) for split, cuts in shaped.items()}


def _resampled(cuts: Any, rate: int | None) -> Iterator[Any]:
    for cut in cuts:
        yield cut.resample(rate) if rate is not None and cut.sampling_rate != rate else cut


def _windows(cuts: Sequence[Any], windows: WindowsConfig, shortest: float, where: str, notes: list[str]) -> list[Any]:
    """Pieces of the cuts; one shorter than a frame (`shortest`, in seconds) has no features and is left out."""
    pieces: list[Any] = []
    if windows.type == "supervisions":
        for cut in cuts:
            pieces += cut.trim_to_supervisions(keep_overlapping=False)
        silent = [cut.id for cut in cuts if not cut.supervisions]
        _note(notes, where, "recordings without a supervision are left out", silent)
    else:
        for cut in cuts:
            pieces += cut.cut_into_windows(windows.seconds, hop=windows.hop)
    _note(notes, where, "pieces shorter than a frame are left out", [c.id for c in pieces if c.duration < shortest])
    pieces = [piece for piece in pieces if piece.duration >= shortest]
    crossed = [cut.id for cut in pieces if any(s.start < 0 or s.end > cut.duration for s in cut.supervisions)]
    _note(notes, where, "windows have text that reaches across their edge and is not cut with them", crossed)
    return pieces


def _beginning(cuts: list[Any], subset: SubsetConfig, where: str, notes: list[str]) -> list[Any]:
    kept = cuts[: subset.first]
    if subset.seconds is not None:
        total, count = 0.0, 0
        for cut in kept:
            total += cut.duration
            if count and total > subset.seconds:
                break
            count += 1
        kept = kept[:count]
    if len(kept) < len(cuts):
        notes.append(f"{where}: the subset has {len(kept):,} of {len(cuts):,} cuts")
    return kept


def _add_speeds(splits: Splits, speed: SpeedConfig, name: str) -> None:
    chosen = speed.splits or [split for split in splits if split.lower().startswith("train")]
    if not chosen:
        raise DataError(
            f"data set {name!r}: no split begins with train (there are {', '.join(splits)}), so "
            "speed_perturbation.splits has to say which are copied"
        )
    for split in chosen:
        splits[split] += [cut.perturb_speed(factor) for factor in speed.factors for cut in splits[split]]


def _check_splits(names: Sequence[str] | None, splits: dict[str, Any], name: str) -> None:
    for split in names or ():
        if split not in splits:
            raise DataError(f"data set {name!r} has no split {split!r}; its splits are {', '.join(splits)}")


def check_rates(splits: Mapping[str, Any], name: str) -> None:
    """Raises DataError where cuts have several sampling rates."""
    rates = sorted({cut.sampling_rate for cuts in splits.values() for cut in cuts})
    if len(rates) > 1:
        shown = " and ".join(f"{rate} Hz" for rate in rates)
        raise DataError(
            f"data set {name!r} has audio of {shown}, whose features do not compare; set features.sampling_rate, say "
            f"to {rates[0]}"
        )


def _note(notes: list[str], where: str, what: str, ids: Sequence[str]) -> None:
    if ids:
        shown = ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
        notes.append(f"{where}: {len(ids):,} {what} ({shown})")
