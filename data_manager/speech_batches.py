"""Collate cuts into batches of frames with bool masks, True at real frames. Features are computed elsewhere."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from data_manager.speech_features import FrameReader
from data_manager.speech_settings import FeaturesConfig
from data_manager.tokenizer_base import Tokenizer

Batch = dict[str, Any]


class SpeechCollator:
    """Collate function from lhotse cuts to the inputs of an encoder with `input_dim` F. Can be pickled.

    `features` [B, T, F] float32, padded with 0; `feature_mask` [B, T]; `text`, B transcripts. With a tokenizer, `labels`
    [B, L] int64, without special tokens and padded with its pad id, and `label_mask` [B, L]. With `speakers`, the
    output of `speaker_targets`.
    """

    def __init__(self, features: FeaturesConfig, tokenizer: Tokenizer | None = None, *, speakers: bool = False) -> None:
        self.frames = FrameReader(features)
        self.tokenizer, self.speakers, self.frame_shift = tokenizer, speakers, features.frame_shift

    def __call__(self, cuts: Sequence[Any]) -> Batch:
        """Collate `cuts`; raise DataError for unreadable audio."""
        frames = [self.frames(cut) for cut in cuts]
        features = torch.nn.utils.rnn.pad_sequence(frames, batch_first=True)  # (B, T, F)
        batch: Batch = {"features": features, "feature_mask": _length_mask([len(rows) for rows in frames])}
        batch["text"] = [transcript(cut) for cut in cuts]
        if self.tokenizer is not None:
            batch |= _pad_labels(batch["text"], self.tokenizer)
        if self.speakers:
            batch |= speaker_targets(cuts, features.shape[1], self.frame_shift)
        return batch


class CutBatchDataset:
    """Data set indexed by whole batches of cuts, as the sampler yields them; workers compute the features."""

    def __init__(self, collate: Callable[[Sequence[Any]], Batch]) -> None:
        self.collate = collate

    def __getitem__(self, cuts: Any) -> Batch:
        return self.collate(list(cuts))


def transcript(cut: Any) -> str:
    """Join the texts of a cut's supervisions with spaces, ordered by time."""
    spoken = sorted(cut.supervisions, key=lambda supervision: supervision.start)
    return " ".join(supervision.text for supervision in spoken if supervision.text)


def speaker_targets(cuts: Sequence[Any], frames: int, frame_shift: float) -> Batch:
    """Build diarization targets for cuts of at most `frames` frames T, one every `frame_shift` seconds.

    `speakers`: names for each cut, in the order in which they begin to speak; `segments`: (speaker, start, end) in
    seconds for each cut, clipped to its ends; `speaker_activity`: bool [B, T, S], True if a frame's centre is in a
    segment of speaker s of that cut. S is the largest number of speakers in a cut, and at least 1.
    """
    segments = [_clip_segments(cut) for cut in cuts]
    speakers = [list(dict.fromkeys(name for name, _, _ in found)) for found in segments]
    activity = torch.zeros(len(segments), frames, max([1, *map(len, speakers)]), dtype=torch.bool)
    centres = (torch.arange(frames, dtype=torch.float64) + 0.5) * frame_shift
    for row, (found, names) in enumerate(zip(segments, speakers, strict=True)):
        for name, start, end in found:
            activity[row, :, names.index(name)] |= (centres >= start) & (centres < end)
    return {"speakers": speakers, "segments": segments, "speaker_activity": activity}


def _clip_segments(cut: Any) -> list[tuple[str, float, float]]:
    spoken = sorted(cut.supervisions, key=lambda supervision: supervision.start)
    clipped = [(str(item.speaker), max(0.0, item.start), min(cut.duration, item.end)) for item in spoken]
    return [(name, start, end) for name, start, end in clipped if end > start]


def _pad_labels(texts: Sequence[str], tokenizer: Tokenizer) -> Batch:
    rows = [tokenizer.encode(text) for text in texts]
    longest = max(map(len, rows))
    labels = torch.full((len(rows), longest), tokenizer.pad_token_id, dtype=torch.int64)
    for index, row in enumerate(rows):
        labels[index, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return {"labels": labels, "label_mask": _length_mask([len(row) for row in rows])}


def _length_mask(lengths: Sequence[int]) -> Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
