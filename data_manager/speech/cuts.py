"""Transform a corpus's cuts: normalise text, resample, cut into windows, filter, take a subset, perturb the speed.

Each step returns new cuts, reads no audio, and logs what it skips.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_manager.errors import DataError
from data_manager.speech.augmentation_types import FilterConfig
from data_manager.speech.transcripts import filter_cuts, log_skipped, normalise_transcripts
from data_manager.speech.types import SpeechCorpusConfig, SpeedConfig, SubsetConfig, WindowsConfig

Splits = dict[str, list[Any]]


@dataclass(frozen=True)
class SpeechCorpus:
    """Cuts of each split, the cache folders, and the skip log."""

    splits: dict[str, Any]
    folders: list[Path]
    notes: list[str]


def shape_splits(splits: dict[str, Any], config: SpeechCorpusConfig, notes: list[str]) -> dict[str, Any]:
    """Apply the transforms set in `config` to each split; raise DataError for settings that do not fit the corpus."""
    from lhotse import CutSet

    for settings in (config.subset, config.speed_perturbation, config.filter):
        _check_splits(settings.splits if settings else None, splits, config.name)
    filtered = _chosen_splits(config.filter, splits, config.name, "filter")
    shaped: Splits = {}
    for split, cuts in splits.items():
        listed = list(cuts)
        if config.text is not None:
            listed = normalise_transcripts(listed, config.text, split, notes)
        found = list(_resample(_select_channels(listed, config), config.features.sampling_rate))
        if config.windows is not None:
            found = _cut_windows(found, config.windows, config.features.frame_length, split, notes)
        if config.filter is not None and split in filtered:
            found = filter_cuts(found, config.filter, split, notes)
        if config.subset is not None and split in (config.subset.splits or splits):
            found = _take_subset(found, config.subset, split, notes)
        shaped[split] = found
    if config.speed_perturbation is not None:
        _add_speeds(shaped, config.speed_perturbation, config.name)
    check_rates(shaped, config.name)
    return {split: CutSet.from_cuts(cuts) for split, cuts in shaped.items()}


def _resample(cuts: Any, rate: int | None) -> Iterator[Any]:
    for cut in cuts:
        yield cut.resample(rate) if rate is not None and cut.sampling_rate != rate else cut


def _cut_windows(
    cuts: Sequence[Any], windows: WindowsConfig, shortest: float, where: str, notes: list[str]
) -> list[Any]:
    """Cut into windows; skip those shorter than a frame (`shortest`, in seconds), which have no features."""
    windowed: list[Any] = []
    if windows.type == "supervisions":
        for cut in cuts:
            windowed += cut.trim_to_supervisions(keep_overlapping=False)
        silent = [cut.id for cut in cuts if not cut.supervisions]
        log_skipped(notes, where, "recordings without a supervision are skipped", silent)
    else:
        dropped: list[str] = []
        for cut in cuts:
            windowed += _treat_tail(cut, list(cut.cut_into_windows(windows.seconds, hop=windows.hop)), windows, dropped)
        log_skipped(
            notes, where, f"windows shorter than {windows.min_tail or windows.seconds:g} s are dropped", dropped
        )
    log_skipped(
        notes, where, "windows shorter than a frame are skipped", [c.id for c in windowed if c.duration < shortest]
    )
    windowed = [window for window in windowed if window.duration >= shortest]
    crossed = [cut.id for cut in windowed if any(s.start < 0 or s.end > cut.duration for s in cut.supervisions)]
    log_skipped(notes, where, "windows contain text that extends past their edge and is not cut", crossed)
    return windowed


def _treat_tail(cut: Any, found: list[Any], windows: WindowsConfig, dropped: list[str]) -> list[Any]:
    """Drop the short windows at the end of a cut, or extend the last long one to the end; a lone one is not joined."""
    limit = windows.min_tail or windows.seconds
    assert limit is not None
    short = [window for window in found if window.duration < limit - 1e-6]
    if windows.tail == "keep" or not short:
        return found
    kept = found[: len(found) - len(short)]
    if windows.tail == "drop":
        dropped += [window.id for window in short]
        return kept
    if not kept:
        return short
    start = (len(kept) - 1) * (windows.hop or windows.seconds or 0.0)
    return [*kept[:-1], cut.truncate(offset=start, preserve_id=False).with_id(kept[-1].id)]


def _select_channels(cuts: list[Any], config: SpeechCorpusConfig) -> Iterator[Any]:
    """Replace each cut of several channels by the one that is set, or by a cut for each; raise DataError if it has none.

    A recipe that names one channel in all segments does not tell channels apart, so each channel has all segments.
    """
    from lhotse import MonoCut

    wanted = config.features.channel
    named = {channel for cut in cuts if _channels(cut)[1:] for s in cut.supervisions for channel in _as_list(s.channel)}
    for cut in cuts:
        channels = _channels(cut)
        if wanted in (None, "mean") or not channels or (wanted == "each" and len(channels) == 1):
            yield cut
            continue
        if wanted != "each" and wanted not in channels:
            shown = ", ".join(map(str, channels))
            raise DataError(f"recording {cut.recording_id} of {config.name!r} has no channel {wanted}, only {shown}")
        for channel in channels if wanted == "each" else [wanted]:
            if len(channels) == 1:
                yield cut
                continue
            spoken = [s for s in cut.supervisions if len(named) < 2 or channel in _as_list(s.channel)]
            suffix = f"-channel{channel}" if wanted == "each" else ""
            yield MonoCut(
                id=f"{cut.id}{suffix}",
                start=cut.start,
                duration=cut.duration,
                channel=channel,
                supervisions=[replace(s, id=f"{s.id}{suffix}", channel=channel) for s in spoken],
                recording=cut.recording,
                custom=cut.custom,
            )


def _channels(cut: Any) -> list[int]:
    """Return the channels of a cut's recording that the cut has; empty for a mix of several recordings."""
    return _as_list(cut.channel) if hasattr(cut, "channel") else []


def _as_list(channel: Any) -> list[int]:
    return [channel] if isinstance(channel, int) else list(channel)


def _take_subset(cuts: list[Any], subset: SubsetConfig, where: str, notes: list[str]) -> list[Any]:
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
    for split in _chosen_splits(speed, splits, name, "speed_perturbation"):
        splits[split] += [cut.perturb_speed(factor) for factor in speed.factors for cut in splits[split]]


def _chosen_splits(
    settings: SpeedConfig | FilterConfig | None, splits: Mapping[str, Any], name: str, key: str
) -> Sequence[str]:
    """Return the splits that settings name, by default those whose names begin with train; raise DataError for none."""
    if settings is None:
        return ()
    chosen = settings.splits or [split for split in splits if split.lower().startswith("train")]
    if not chosen:
        raise DataError(
            f"data set {name!r}: no split name begins with train (its splits are {', '.join(splits)}); "
            f"list the splits to change in {key}.splits"
        )
    return chosen


def _check_splits(names: Sequence[str] | None, splits: dict[str, Any], name: str) -> None:
    for split in names or ():
        if split not in splits:
            raise DataError(f"data set {name!r} has no split {split!r}; its splits are {', '.join(splits)}")


def check_rates(splits: Mapping[str, Any], name: str) -> None:
    """Raise DataError if cuts have different sampling rates."""
    rates = sorted({cut.sampling_rate for cuts in splits.values() for cut in cuts})
    if len(rates) > 1:
        shown = " and ".join(f"{rate} Hz" for rate in rates)
        raise DataError(
            f"data set {name!r} has audio of {shown}, whose features are not comparable; set "
            f"features.sampling_rate, for example to {rates[0]}"
        )
