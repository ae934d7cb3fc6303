"""Search of the interval of clipped times, `times: {clip: auto}` (Arriola et al. 2025), at each evaluation.

For every interval of a grid an evaluation measures the variance of the mean loss of a block over rows and blocks; the interval
with the least variance is used until the next evaluation. All rows of the evaluation take part, so that all processes make the
same number of network calls; the paper takes 100 batches. The variances are metrics of the evaluation, so a resumed run reads
its interval from the history in the checkpoint.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from model.discrete.model import DiffusionModel
from model_factory.diffusion.objectives.clipped_draw import (
    ClipInterval,
    ClippedDraw,
    SearchedClipDraw,
    block_means,
)
from model_factory.diffusion.randomness import RowGenerators
from model_factory.diffusion.time_strata import stratified_times
from model_factory.training.noise import mix_seed
from model_factory.training.tasks.base import Batch, counted_tokens

_PREFIX = "clip_variance_"


def clipped_draw(network: nn.Module) -> ClippedDraw | None:
    """Return how a model with clipped times draws its noise in training; None for any other model."""
    draw = network.objective.noise_draw if isinstance(network, DiffusionModel) else None
    return draw if isinstance(draw, ClippedDraw) else None


def clip_variances(network: nn.Module, batch: Batch, cond: Tensor | None) -> dict[str, Tensor]:
    """Return the variance of the loss of blocks in each interval of the grid, [] each; empty for a model without a search.

    `cond` is the condition of each row, [B] or [B, size], for a conditional model.
    """
    draw, noise = clipped_draw(network), batch["noise"]
    if not isinstance(draw, SearchedClipDraw):
        return {}
    assert isinstance(network, DiffusionModel)
    ids, mask, frozen = batch["input_ids"], batch.get("attention_mask"), ~counted_tokens(batch)
    documents = batch.get("document_ids")
    rows, found = noise.place.to(ids.device), {}
    for number, interval in enumerate(draw.intervals()):
        seed = mix_seed(noise.step_seed, number)
        times = network.times(stratified_times(rows, noise.batch_size, seed), ids, documents)
        parts = network.objective.drawn_by(ClippedDraw(*interval)).parts(
            lambda x_t, sigma: network.denoise(x_t, sigma, mask=mask, cond=cond, documents=documents),
            ids,
            times,
            RowGenerators.from_seed(seed + 1, rows),
            frozen,
            ends=False,
        )
        found[_name(interval)] = block_means(parts.diffusion, times, frozen).var(correction=0).float()
    return found


def choose_clip(network: nn.Module, metrics: Mapping[str, float]) -> None:
    """Use the interval with the least variance among the metrics of an evaluation, whose names begin with `eval_`."""
    draw = clipped_draw(network)
    if isinstance(draw, SearchedClipDraw):
        names = {f"eval_{_name(interval)}": interval for interval in draw.intervals()}
        draw.choose({interval: metrics[name] for name, interval in names.items() if name in metrics})


def _name(interval: ClipInterval) -> str:
    return f"{_PREFIX}{interval[0]:g}_{interval[1]:g}"
