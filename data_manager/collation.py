"""Rows to batches: padded tensors with masks, bool and True at real tokens or frames. All can be pickled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from data_manager.errors import DataError

Batch = dict[str, Any]


def pad_rows(rows: Sequence[Any], fill: int) -> tuple[Tensor, Tensor]:
    """Ids [B, L] int64 and mask [B, L] of rows of ids, padded behind with `fill` to the longest row L."""
    lengths = torch.tensor([len(row) for row in rows])
    longest = int(lengths.max())
    padded = torch.full((len(rows), longest), fill, dtype=torch.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = torch.as_tensor(row)
    return padded, torch.arange(longest) < lengths[:, None]


@dataclass(frozen=True)
class TextCollator:
    """Rows with `input_ids` to `{"input_ids": [B, L] int64, "attention_mask": [B, L]}`."""

    pad_token_id: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """The batch of `rows`."""
        ids, mask = pad_rows([row["input_ids"] for row in rows], self.pad_token_id)
        return {"input_ids": ids, "attention_mask": mask}


@dataclass(frozen=True)
class PairCollator:
    """Rows with `source_ids` and `target_ids` to both as [B, N] and [B, M] int64, with `source_mask`, `target_mask`."""

    pad_token_id: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """The batch of `rows`."""
        batch: Batch = {}
        for side in ("source", "target"):
            ids, mask = pad_rows([row[f"{side}_ids"] for row in rows], self.pad_token_id)
            batch |= {f"{side}_ids": ids, f"{side}_mask": mask}
        return batch


@dataclass
class SpeechCollator:
    """lhotse cuts to `{"features": [B, T, F] float32, "feature_mask": [B, T], "text": list of B transcripts}`.

    Features are log energies of F mel bins (Kaldi's fbank: frames of 25 ms every 10 ms, no dither), computed from the
    audio here; several channels are averaged. Padding is 0.
    """

    num_mel_bins: int
    _extractors: dict[int, Any] = field(default_factory=dict, repr=False)

    def __call__(self, cuts: Sequence[Any]) -> Batch:
        """The batch of `cuts`; raises DataError for audio that cannot be read."""
        frames = [self.frames(cut) for cut in cuts]
        lengths = torch.tensor([len(frame) for frame in frames])
        features = torch.nn.utils.rnn.pad_sequence(frames, batch_first=True)  # (B, T, F)
        mask = torch.arange(features.shape[1]) < lengths[:, None]
        return {"features": features, "feature_mask": mask, "text": [transcript(cut) for cut in cuts]}

    def frames(self, cut: Any) -> Tensor:
        """Features [T, F] float32 of one cut."""
        try:
            samples = cut.load_audio()  # (channels, samples)
        except Exception as error:  # whatever the audio library raises for a broken file
            raise DataError(f"audio of {cut.id} cannot be read from {_files(cut)}: {error}") from error
        extractor = self._extractor(cut.sampling_rate)
        return torch.as_tensor(extractor.extract(samples.mean(axis=0, keepdims=True), cut.sampling_rate)).float()

    def _extractor(self, sampling_rate: int) -> Any:
        """The extractor of one sampling rate, in Hz."""
        if sampling_rate not in self._extractors:
            from lhotse import Fbank, FbankConfig

            settings = FbankConfig(sampling_rate=sampling_rate, num_filters=self.num_mel_bins)
            self._extractors[sampling_rate] = Fbank(settings)
        return self._extractors[sampling_rate]

    def __getstate__(self) -> dict[str, Any]:
        """Workers make their own extractors."""
        return {"num_mel_bins": self.num_mel_bins, "_extractors": {}}


def transcript(cut: Any) -> str:
    """The texts of a cut's supervisions, in the order of time, joined by a space."""
    spoken = sorted(cut.supervisions, key=lambda supervision: supervision.start)
    return " ".join(supervision.text for supervision in spoken if supervision.text)


def _files(cut: Any) -> str:
    recording = getattr(cut, "recording", None)
    return ", ".join(str(source.source) for source in recording.sources) if recording else "its tracks"
