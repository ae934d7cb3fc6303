"""Tell who speaks when: labels of each frame for each speaker, in whatever order (Fujita et al. 2019)."""

from itertools import permutations

import torch
from torch import Tensor, nn

from training.errors import UnfitError
from training.speech_metrics import speaker_errors
from training.splits import chosen_dataset
from training.tasks.base import Batch, Task
from training.tasks.speech_front import build_augment, speech_settings, wrap_encoder


def permutation_free_loss(logits: Tensor, activity: Tensor, real: Tensor) -> Tensor:
    """Binary cross-entropy in nats [B], summed over frames, meaned over speakers, under the best order of speakers.

        min over orders p of 1/S sum_s sum_t BCE(logits[t, s], activity[t, p(s)])

    (arXiv 1909.05952). logits float [B, N, S], activity bool [B, N, S], real bool [B, N].
    """
    speakers = logits.shape[-1]
    logits = logits.float() * real.unsqueeze(-1)
    targets = (activity & real.unsqueeze(-1)).float()
    silent = (nn.functional.softplus(logits) * real.unsqueeze(-1)).sum(1)  # (B, S): the cost where nobody speaks
    pairs = silent.unsqueeze(2) - torch.einsum("bts,btr->bsr", logits, targets)  # (B, S, R)
    orders = torch.tensor(list(permutations(range(speakers))), device=logits.device)  # (S!, S)
    costs = pairs[:, torch.arange(speakers, device=logits.device), orders].mean(-1)  # (B, S!)
    return costs.min(1).values


class Diarization(Task):
    """The permutation-free loss in nats a frame and speaker, and in evaluation the diarization error rate.

    During training the rate is a mean over batches; `evaluate.py` counts it over all recordings.
    """

    def network(self, model: nn.Module) -> nn.Module:
        """The encoder behind subsampling, with a logit for each speaker; raises UnfitError for data without speakers."""
        entry = chosen_dataset(self.setting.config)
        if self.setting.tokenizer is not None:
            raise UnfitError(f"diarization writes no text; leave out the tokenizer of data set {entry.name!r}")
        if not getattr(getattr(entry, "loading", None), "speakers", False):
            raise UnfitError(
                f"diarization needs to know who speaks; add to data set {entry.name!r} loading: {{speakers: true}}"
            )
        return wrap_encoder(model, self.setting, speech_settings(self.setting).num_speakers)

    def weight(self, batch: Batch) -> Tensor:
        """Frames of features."""
        mask = batch.get("feature_mask")
        features = batch["features"]
        return (
            torch.tensor(float(features[..., 0].numel()), device=features.device)
            if mask is None
            else mask.sum().float()
        )

    def __call__(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The loss of a batch with `features` [B, T, F] and `speaker_activity` bool [B, T, S]."""
        noise = batch["noise"].generators(batch["features"].device) if network.training else None
        logits, lengths = network(batch["features"], batch.get("feature_mask"), build_augment(self.setting, noise))
        step = speech_settings(self.setting).subsampling
        activity = self.activity(batch, logits.shape[-1])
        real = torch.arange(logits.shape[1], device=logits.device) < lengths[:, None]
        losses = permutation_free_loss(logits, activity[:, ::step], real)
        metrics = {"loss": losses.sum() / real.sum().clamp(min=1)}
        if not network.training:
            found = [speaker_errors(*pair) for pair in self.pairs(batch, logits)]
            rate = sum(one.errors for one in found) / max(1, sum(one.speech for one in found))
            metrics["der"] = torch.tensor(rate, device=logits.device)
        return metrics

    def samples(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> list[str]:
        """Two lines a speaker, a character for each tenth of a second: who speaks, and who is told to speak."""
        was_training = network.training
        network.eval()
        with torch.no_grad():
            logits, _ = network(batch["features"], batch.get("feature_mask"))
        network.train(was_training)
        return [
            "\n".join(
                f"{name} {_drawn(column)}" for name, rows in (("is  ", wanted), ("told", told)) for column in rows.T
            )
            for wanted, told in self.pairs(batch, logits)
        ]

    def pairs(self, batch: Batch, logits: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Activities bool [T, S] of each recording: what is so, and what logits [B, N, S] tell, frame by frame."""
        activity = self.activity(batch, logits.shape[-1])
        step, frames = speech_settings(self.setting).subsampling, activity.shape[1]
        # output n is centred on frame step * n
        nearest = ((torch.arange(frames, device=logits.device) + step // 2) // step).clamp(max=logits.shape[1] - 1)
        told = (logits > 0)[:, nearest]
        mask = batch.get("feature_mask")
        counts = [frames] * len(activity) if mask is None else mask.sum(1).tolist()
        return [(activity[row, :count], told[row, :count]) for row, count in enumerate(counts)]

    def activity(self, batch: Batch, speakers: int) -> Tensor:
        """`speaker_activity` of a batch, bool [B, T, speakers]; raises UnfitError where there are more."""
        found: Tensor = batch["speaker_activity"]
        if found.shape[-1] > speakers:
            raise UnfitError(
                f"a recording has {found.shape[-1]} speakers, and training.speech.num_speakers is {speakers}; "
                f"set it to {found.shape[-1]}, or cut the recordings into windows"
            )
        return nn.functional.pad(found, (0, speakers - found.shape[-1]))


def _drawn(active: Tensor) -> str:
    return "".join("#" if bool(active[start : start + 10].any()) else "." for start in range(0, len(active), 10))
