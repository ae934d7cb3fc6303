"""Front end of speech encoders: feature normalisation, SpecAugment, convolutional subsampling."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from model_factory.diffusion.randomness import RowGenerators
from model_factory.experiment.training_types import SpecAugmentConfig, SpeechTaskConfig
from model_factory.training.errors import UnfitError
from model_factory.training.splits import select_dataset
from model_factory.training.tasks.base import TaskSetting

Augment = Callable[[Tensor, Tensor | None], Tensor]


def normalise_features(features: Tensor, mask: Tensor | None) -> Tensor:
    """Normalise features [B, T, F] to mean 0 and variance 1 per bin over the real frames; set padding to 0."""
    real = torch.ones_like(features[..., :1]) if mask is None else mask.unsqueeze(-1).to(features.dtype)
    features = features * real
    count = real.sum(1, keepdim=True).clamp(min=1)
    centred = (features - features.sum(1, keepdim=True) / count) * real
    variance = centred.square().sum(1, keepdim=True) / count
    return centred * torch.rsqrt(variance + 1e-5)


def spec_augment(features: Tensor, mask: Tensor | None, settings: SpecAugmentConfig, noise: RowGenerators) -> Tensor:
    """Apply SpecAugment: set random frequency bands and time spans of normalised features [B, T, F] to 0, their mean.

    `noise` draws the masks of each row independently of the other rows.
    """
    batch, frames, bins = features.shape
    lengths = torch.full((batch,), frames, device=features.device) if mask is None else mask.sum(1)
    widest = torch.full((batch,), min(settings.frequency_width, bins), device=features.device)
    bands = _random_masks(settings.frequency_masks, widest, torch.full_like(widest, bins), bins, noise)
    longest = (lengths * settings.time_share).floor().clamp(max=settings.time_width)
    spans = _random_masks(settings.time_masks, longest, lengths, frames, noise)
    return features.masked_fill(bands.unsqueeze(1) | spans.unsqueeze(2), 0.0)


def _random_masks(count: int, widest: Tensor, size: Tensor, positions: int, noise: RowGenerators) -> Tensor:
    """Draw masks bool [B, positions], True in `count` intervals of 0 to `widest` [B], within the first `size` [B]."""
    draws = noise.rand(count, 2)  # (B, count, 2)
    width = (draws[..., 0] * (widest.unsqueeze(1) + 1)).floor()
    start = (draws[..., 1] * (size.unsqueeze(1) - width + 1)).floor()
    position = torch.arange(positions, device=widest.device)
    inside = (position >= start.unsqueeze(-1)) & (position < (start + width).unsqueeze(-1))
    return inside.any(1)


class Subsampling(nn.Module):
    """Subsampling by 2D convolutions over time and frequency, each of stride 2, as in Speech-Transformer (Dong 2018).

    With a factor of 4, output t is centred on frame 4 t and depends on the 7 frames around it. An utterance of T frames
    has ceil(T / 4) outputs, independent of padding.
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
        """Map features [B, T, F] to [B, N, width], and their mask to bool [B, N]."""
        x = features.unsqueeze(1)  # (B, 1, T, F)
        for convolution in self.convolutions:
            x = (
                x if mask is None else x * mask[:, None, :, None]
            )  # padding frames are 0, as at the edges of the convolution
            x = nn.functional.gelu(convolution(x))
            mask = None if mask is None else mask[:, ::2]
        return self.project(x.transpose(1, 2).flatten(2)), mask


class SpeechEncoder(nn.Module):
    """Encoder with normalisation and subsampling in front; `head`, if given, replaces the encoder's head."""

    def __init__(self, encoder: nn.Module, front: Subsampling, head: nn.Linear | None = None) -> None:
        super().__init__()
        self.front, self.encoder, self.head = front, encoder, head

    def forward(
        self, features: Tensor, mask: Tensor | None = None, augment: Augment | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute logits [B, N, V] of features [B, T, F], and the number of real positions, int64 [B]."""
        x = normalise_features(features, mask)
        x, mask = self.front(x if augment is None else augment(x, mask), mask)
        # a head of the task takes hidden states, not logits
        logits = self.encoder(x, mask) if self.head is None else self.head(self.encoder.hidden(x, mask))  # type: ignore[operator]
        full = torch.full((x.shape[0],), x.shape[1], device=x.device)
        return logits, full if mask is None else mask.sum(1)


def speech_settings(setting: TaskSetting) -> SpeechTaskConfig:
    """Return the section `training.speech`, or its defaults."""
    return setting.training.speech or SpeechTaskConfig()


def wrap_encoder(model: nn.Module, setting: TaskSetting, outputs: int | None = None) -> SpeechEncoder:
    """Wrap an encoder with a front end for the data set's features; with `outputs`, replace its head by one of this size.

    The front end outputs vectors of the encoder's `input_dim`, or of d_model if that is not set.
    """
    entry = select_dataset(setting.config)
    features = getattr(entry, "features", None)
    bins = features.width() if features is not None else None
    if bins is None:
        raise UnfitError(
            f"the width of the features of data set {entry.name!r} is unknown; use a speech data set, and for "
            "spectrograms set features.sampling_rate"
        )
    device = next(model.parameters()).device
    width: int = model.input.width  # type: ignore[union-attr, assignment]
    front = Subsampling(bins, width, speech_settings(setting)).to(device)
    head = None if outputs is None else nn.Linear(model.params.d_model, outputs, device=device)  # type: ignore[union-attr, arg-type]
    return SpeechEncoder(model, front, head)


def build_augment(setting: TaskSetting, noise: RowGenerators | None) -> Augment | None:
    """Return SpecAugment as configured, None if it is disabled or `noise` is None."""
    chosen = speech_settings(setting).spec_augment
    if chosen is None or noise is None:
        return None
    settings, source = chosen, noise
    return lambda features, mask: spec_augment(features, mask, settings, source)
