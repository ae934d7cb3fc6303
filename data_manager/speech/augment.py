"""Random changes of the audio of cuts during training: tempo, rooms, volume, noise.

What is drawn for a cut is a function of (seed, epoch, cut id), so it depends neither on the number of workers and processes nor
on where a run was resumed. lhotse applies it when the audio is read.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lhotse.augmentation import Tempo
from lhotse.cut.set import mix
from lhotse.utils import perturb_num_samples
from numpy.lib.stride_tricks import sliding_window_view

from data_manager.errors import DataError
from data_manager.speech.augmentation_types import AugmentationConfig, NoiseConfig, ReverbConfig
from data_manager.speech.corpus import get_speech_corpus
from data_manager.speech.types import SpeechConfig, SpeechCorpusConfig


@dataclass(frozen=True)
class Augmenter:
    """Function from a cut and an epoch to a changed cut; `noise` and `rooms` are the recordings to draw from."""

    settings: AugmentationConfig
    seed: int = 0
    noise: Sequence[Any] = ()
    rooms: Sequence[Any] = ()

    @classmethod
    def of(cls, config: Any, seed: int) -> "Augmenter | None":
        """Load the entries that a config's augmentation names; return None without one. Raise DataError."""
        settings = getattr(config, "augmentation", None)
        if settings is None:
            return None
        return cls(settings, seed, _load(config, settings.noise), _load(config, settings.reverb))

    def __call__(self, cut: Any, epoch: int) -> Any:
        """Return the cut as it is trained on in an epoch; raise DataError for one without audio."""
        chance = random.Random(f"{self.seed}/{epoch}/{cut.id}")
        if not cut.has_recording:
            raise DataError(f"cut {cut.id} has no recording, only stored features, and augmentation changes audio")
        changed = cut.drop_features() if cut.has_features else cut
        steps: Any = (
            (self.settings.tempo, self._change_tempo),
            (self.settings.reverb, self._add_room),
            (self.settings.volume, self._change_volume),
            (self.settings.noise, self._add_noise),
        )
        for settings, change in steps:
            # drawn for every cut, so that one probability does not shift the other draws
            own = random.Random(chance.getrandbits(64))
            if settings is not None and own.random() < settings.probability:
                changed = change(changed, settings, own)
        return changed

    def _change_tempo(self, cut: Any, settings: Any, chance: random.Random) -> Any:
        changed = cut.perturb_tempo(round(chance.uniform(*settings.range), 3), affix_id=False)
        for part in [track.cut for track in getattr(changed, "tracks", ())] or [changed]:
            recording = getattr(part, "recording", None)
            if recording is not None:
                recording.transforms[-1] = TimeStretch(recording.transforms[-1].factor)
        return changed

    def _add_room(self, cut: Any, settings: Any, chance: random.Random) -> Any:
        room = chance.choice(self.rooms)
        return cut.reverb_rir(_at_rate(room, cut.sampling_rate).recording, affix_id=False)

    def _change_volume(self, cut: Any, settings: Any, chance: random.Random) -> Any:
        factor = math.exp(chance.uniform(*map(math.log, settings.range)))
        return cut.perturb_volume(round(factor, 6), affix_id=False)

    def _add_noise(self, cut: Any, settings: NoiseConfig, chance: random.Random) -> Any:
        noise = _at_rate(chance.choice(self.noise), cut.sampling_rate)
        ratio = chance.uniform(*settings.snr)
        if noise.duration > cut.duration:
            start = chance.uniform(0.0, noise.duration - cut.duration)
            noise = noise.truncate(offset=start, duration=cut.duration)
        offset, mixed = 0.0, cut
        while offset < cut.duration - 1 / cut.sampling_rate:
            part = noise.truncate(duration=min(noise.duration, cut.duration - offset))
            mixed = mix(mixed, part, offset=offset, snr=ratio, preserve_id="left")
            offset = round(offset + part.duration, 8)
        return mixed.truncate(duration=cut.duration).with_id(cut.id)


def _at_rate(cut: Any, rate: int) -> Any:
    return cut if cut.sampling_rate == rate else cut.resample(rate)


def _load(config: SpeechConfig, settings: NoiseConfig | ReverbConfig | None) -> list[Any]:
    """Return the cuts of the entry that settings name, one channel of each, without text; raise DataError."""
    if settings is None:
        return []
    part = next((entry for entry in config.entries if entry.name == settings.dataset), None)
    if not isinstance(part, SpeechCorpusConfig):
        raise DataError(f"data set {config.name!r}: its entries must hold the config of {settings.dataset!r}")
    features = part.features.model_copy(update={"storage": "on_the_fly"})
    splits = get_speech_corpus(part.model_copy(update={"tokenizer": None, "features": features})).splits
    for split in settings.splits or ():
        if split not in splits:
            raise DataError(f"data set {part.name!r} has no split {split!r}; its splits are {', '.join(splits)}")
    cuts = [cut for split in settings.splits or splits for cut in splits[split]]
    if not cuts:
        raise DataError(f"data set {part.name!r} has no recordings to augment with")
    return [_first_channel(cut.drop_supervisions()) for cut in cuts]


def _first_channel(cut: Any) -> Any:
    return cut.to_mono()[0] if cut.num_channels > 1 else cut


# Tempo: lhotse's needs sox effects, which torchaudio has removed.


_WINDOW, _SEARCH = 0.04, 0.01
"""Length of the pieces that are overlapped, and how far each is moved for the best fit. [s]"""


class TimeStretch(Tempo):  # type: ignore[misc]
    """Change of tempo at constant pitch by overlapping pieces at the best fit (WSOLA, Verhelst and Roelands 1993)."""

    def __call__(self, samples: Any, sampling_rate: int) -> Any:
        """Stretch samples [C, N] to [C, N / factor]."""
        count = perturb_num_samples(samples.shape[1], self.factor)
        hop = max(2, round(_WINDOW * sampling_rate / 2))
        search = round(_SEARCH * sampling_rate)
        window = 0.5 - 0.5 * np.cos(np.pi * (np.arange(2 * hop) + 0.5) / hop)
        pieces = -(-count // hop) + 1
        room = hop + search, 2 * hop + search + math.ceil(pieces * hop * max(self.factor, 1.0))
        padded = np.pad(np.asarray(samples, np.float64), ((0, 0), room))
        mono = padded.mean(0)
        made = np.zeros((samples.shape[0], (pieces + 1) * hop))
        at = search  # where the first piece begins: half of it lies before the samples
        for piece in range(pieces):
            if piece:
                ideal = search + round(piece * hop * self.factor)
                follows = mono[at + hop : at + 3 * hop]
                shifts = sliding_window_view(mono[ideal - search : ideal + search + 2 * hop], 2 * hop)
                # einsum uses no BLAS, whose rounding depends on the number of threads
                energy = np.einsum("ij,ij->i", shifts, shifts)
                scores = np.einsum("ij,j->i", shifts, follows) / np.sqrt(energy + 1e-12)
                at = ideal - search + int(scores.argmax())
            made[:, piece * hop : (piece + 2) * hop] += window * padded[:, at : at + 2 * hop]
        return made[:, hop : hop + count].astype(np.float32)
