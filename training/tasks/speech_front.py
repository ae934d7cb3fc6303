"""What stands in front of an encoder of speech: normalised features, SpecAugment, convolutional subsampling."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from diffusion.randomness import RowGenerators
from training.errors import UnfitError
from training.speech_types import SpecAugmentConfig, SpeechTaskConfig
from training.splits import chosen_dataset
from training.tasks.base import TaskSetting

Augment = Callable[[Tensor, Tensor | None], Tensor]


def normalise_features(features: Tensor, mask: Tensor | None) -> Tensor:
    """Features [B, T, F] with mean 0 and variance 1 of each bin over the real frames of an utterance, 0 elsewhere."""
    real = torch.ones_like(features[..., :1]) if mask is None else mask.unsqueeze(-1).to(features.dtype)
    features = features * real
    count = real.sum(1, keepdim=True).clamp(min=1)
    centred = (features - features.sum(1, keepdim=True) / count) * real
    variance = centred.square().sum(1, keepdim=True) / count
    return centred * torch.rsqrt(variance + 1e-5)


def spec_augment(features: Tensor, mask: Tensor | None, settings: SpecAugmentConfig, noise: RowGenerators) -> Tensor:
    """Normalised features [B, T, F] with bands and stretches at 0, their mean; `noise` decides which, row by row."""
    batch, frames, bins = features.shape
    lengths = torch.full((batch,), frames, device=features.device) if mask is None else mask.sum(1)
    widest = torch.full((batch,), min(settings.frequency_width, bins), device=features.device)
    bands = _hidden(settings.frequency_masks, widest, torch.full_like(widest, bins), bins, noise)
    longest = (lengths * settings.time_share).floor().clamp(max=settings.time_width)
    stretches = _hidden(settings.time_masks, longest, lengths, frames, noise)
    return features.masked_fill(bands.unsqueeze(1) | stretches.unsqueeze(2), 0.0)


def _hidden(count: int, widest: Tensor, size: Tensor, places: int, noise: RowGenerators) -> Tensor:
    """Bool [B, places], True inside `count` intervals of 0 to `widest` [B] places, all within the first `size` [B]."""
    draws = noise.rand(count, 2)  # (B, count, 2)
    width = (draws[..., 0] * (widest.unsqueeze(1) + 1)).floor()
    start = (draws[..., 1] * (size.unsqueeze(1) - width + 1)).floor()
    place = torch.arange(places, device=widest.device)
    inside = (place >= start.unsqueeze(-1)) & (place < (start + width).unsqueeze(-1))
    return inside.any(1)


class Subsampling(nn.Module):
    """Two-dimensional convolutions over time and frequency, each of stride 2, as in Speech-Transformer (Dong 2018).

    With a factor of 4, output t is centred on frame 4 t and has seen the 7 frames around it; an utterance of T frames
    gives ceil(T / 4) outputs, whatever it is padded to.
    """

    def __init__(self, bins: int, width: int, settings: SpeechTaskConfig) -> None:
        super().__init__()
        layers, channels = settings.subsampling.bit_length() - 1, 1
        self.convolutions = nn.ModuleList()
        for _ in range(layers):
            self.convolutions.append(nn.Conv2d(channels, settings.channels, 3, stride=2, padding=1))
            channels, bins = settings.channels, -(-bins // 2)
        self.project = nn.Linear(channels * bins, width)

    def forward(self, features: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Features [B, T, F] to [B, N, width], and their mask bool [B, N]."""
        x = features.unsqueeze(1)  # (B, 1, T, F)
        for convolution in self.convolutions:
            x = x if mask is None else x * mask[:, None, :, None]  # so that padding is what the edge is: zeros
            x = nn.functional.gelu(convolution(x))
            mask = None if mask is None else mask[:, ::2]
        return self.project(x.transpose(1, 2).flatten(2)), mask


class SpeechEncoder(nn.Module):
    """An encoder behind normalisation and subsampling; `head` replaces its own, where it is given."""

    def __init__(self, encoder: nn.Module, front: Subsampling, head: nn.Linear | None = None) -> None:
        super().__init__()
        self.front, self.encoder, self.head = front, encoder, head

    def forward(
        self, features: Tensor, mask: Tensor | None = None, augment: Augment | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits [B, N, V] of features [B, T, F], and how many of the N are real, int64 [B]."""
        x = normalise_features(features, mask)
        x, mask = self.front(x if augment is None else augment(x, mask), mask)
        # a head of the task's own stands on hidden states
        logits = self.encoder(x, mask) if self.head is None else self.head(self.encoder.hidden(x, mask))  # type: ignore[operator]
        full = torch.full((x.shape[0],), x.shape[1], device=x.device)
        return logits, full if mask is None else mask.sum(1)


def speech_settings(setting: TaskSetting) -> SpeechTaskConfig:
    """The section `training.speech`, or its defaults."""
    return setting.training.speech or SpeechTaskConfig()


def wrap_encoder(model: nn.Module, setting: TaskSetting, outputs: int | None = None) -> SpeechEncoder:
    """An encoder with a front for the data set's features; with `outputs`, a head of so many in place of its own.

    The front gives what the encoder reads: vectors of `input_dim`, or of d_model where that is left out.
    """
    entry = chosen_dataset(setting.config)
    features = getattr(entry, "features", None)
    bins = features.width() if features is not None else None
    if bins is None:
        raise UnfitError(
            f"data set {entry.name!r} does not say how wide its features are; for spectrograms set "
            "features.sampling_rate, and a data set of speech has features"
        )
    device = next(model.parameters()).device
    width: int = model.input.width  # type: ignore[union-attr, assignment]
    front = Subsampling(bins, width, speech_settings(setting)).to(device)
    head = None if outputs is None else nn.Linear(model.params.d_model, outputs, device=device)  # type: ignore[union-attr, arg-type]
    return SpeechEncoder(model, front, head)


def build_augment(setting: TaskSetting, noise: RowGenerators | None) -> Augment | None:
    """SpecAugment as the file asks for it, None where it asks for none or `noise` is None."""
    chosen = speech_settings(setting).spec_augment
    if chosen is None or noise is None:
        return None
    settings, source = chosen, noise
    return lambda features, mask: spec_augment(features, mask, settings, source)
