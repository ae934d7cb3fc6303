"""Task diarization: predict the active speakers of each frame, in any order (EEND, Fujita et al. 2019)."""

from itertools import permutations

import torch
from torch import Tensor, nn

from model.evaluation_mode import evaluation_mode
from model_factory.training.errors import UnfitError
from model_factory.training.splits import select_dataset
from model_factory.training.tasks.base import Batch, Task
from model_factory.training.tasks.speech_front import build_augment, speech_settings, wrap_encoder
from model_factory.training.tasks.speech_metrics import speaker_errors


def permutation_free_loss(logits: Tensor, activity: Tensor, real: Tensor) -> Tensor:
    """Compute the permutation-invariant BCE in nats [B], summed over frames, averaged over speakers.

        min over permutations p of 1/S sum_s sum_t BCE(logits[t, s], activity[t, p(s)])

    (arXiv 1909.05952). logits float [B, N, S], activity bool [B, N, S], real bool [B, N].
    """
    speakers = logits.shape[-1]
    logits = logits.float() * real.unsqueeze(-1)
    targets = (activity & real.unsqueeze(-1)).float()
    silent = (nn.functional.softplus(logits) * real.unsqueeze(-1)).sum(1)  # (B, S): the loss if nobody speaks
    pairs = silent.unsqueeze(2) - torch.einsum("bts,btr->bsr", logits, targets)  # (B, S, R)
    orders = torch.tensor(list(permutations(range(speakers))), device=logits.device)  # (S!, S)
    costs = pairs[:, torch.arange(speakers, device=logits.device), orders].mean(-1)  # (B, S!)
    return costs.min(1).values


class Diarization(Task):
    """Permutation-free loss in nats per frame and speaker, and during evaluation the diarization error rate (DER).

    In a training run, the DER is a mean over batches; `evaluate.py` computes it over all recordings.
    """

    def network(self, model: nn.Module) -> nn.Module:
        """Return the encoder with subsampling and a logit per speaker; raise UnfitError if the data have no speakers."""
        entry = select_dataset(self.setting.config)
        if self.setting.tokenizer is not None:
            raise UnfitError(f"diarization has no text output; leave out the tokenizer of data set {entry.name!r}")
        if not getattr(getattr(entry, "loading", None), "speakers", False):
            raise UnfitError(
                f"diarization needs speaker labels; add loading: {{speakers: true}} to data set {entry.name!r}"
            )
        return wrap_encoder(model, self.setting, speech_settings(self.setting).num_speakers)

    def weight(self, batch: Batch) -> Tensor:
        """Return the number of frames."""
        mask = batch.get("feature_mask")
        features = batch["features"]
        return (
            torch.tensor(float(features[..., 0].numel()), device=features.device)
            if mask is None
            else mask.sum().float()
        )

    def __call__(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Compute the loss of a batch with `features` [B, T, F] and `speaker_activity` bool [B, T, S]."""
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
        """Draw two lines per speaker, reference and prediction, with one character per tenth of a second."""
        with evaluation_mode(network), torch.no_grad():
            logits, _ = network(batch["features"], batch.get("feature_mask"))
        return [
            "\n".join(
                f"{name} {_draw_activity(column)}"
                for name, rows in (("reference ", reference), ("prediction", prediction))
                for column in rows.T
            )
            for reference, prediction in self.pairs(batch, logits)
        ]

    def pairs(self, batch: Batch, logits: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return the reference and predicted activity, each bool [T, S], of each recording from logits [B, N, S]."""
        activity = self.activity(batch, logits.shape[-1])
        step, frames = speech_settings(self.setting).subsampling, activity.shape[1]
        # output n is centred on frame step * n
        nearest = ((torch.arange(frames, device=logits.device) + step // 2) // step).clamp(max=logits.shape[1] - 1)
        predicted = (logits > 0)[:, nearest]
        mask = batch.get("feature_mask")
        counts = [frames] * len(activity) if mask is None else mask.sum(1).tolist()
        return [(activity[row, :count], predicted[row, :count]) for row, count in enumerate(counts)]

    def turns(self, activity: Tensor) -> list[tuple[int, float, float]]:
        """Return (speaker from 0, start, end), in seconds, of each stretch of speech in activity bool [T, S], by start."""
        shift = select_dataset(self.setting.config).features.frame_shift  # type: ignore[attr-defined]
        edges = nn.functional.pad(activity.int().T, (1, 1)).diff(dim=1).cpu()  # (S, T + 1)
        found = []
        for speaker, steps in enumerate(edges):
            begins, ends = ((steps == sign).nonzero()[:, 0].tolist() for sign in (1, -1))
            found += [(speaker, begin * shift, end * shift) for begin, end in zip(begins, ends, strict=True)]
        return sorted(found, key=lambda turn: turn[1:])

    def activity(self, batch: Batch, speakers: int) -> Tensor:
        """Return `speaker_activity` padded to bool [B, T, speakers]; raise UnfitError if there are more speakers."""
        found: Tensor = batch["speaker_activity"]
        if found.shape[-1] > speakers:
            raise UnfitError(
                f"a recording has {found.shape[-1]} speakers, and training.speech.num_speakers is {speakers}; "
                f"set it to {found.shape[-1]}, or cut the recordings into windows"
            )
        return nn.functional.pad(found, (0, speakers - found.shape[-1]))


def _draw_activity(active: Tensor) -> str:
    """Draw `#` for each ten frames with speech, `.` for the others."""
    return "".join("#" if bool(active[start : start + 10].any()) else "." for start in range(0, len(active), 10))
