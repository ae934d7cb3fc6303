"""All of a training step of a discrete diffusion model that needs no network: checks, times, noise, weights.

It is drawn where the tokens are: in a data loader's worker, so that an accelerator neither waits for checks nor computes
random words, or on the device of a model that is called directly. The numbers are the same everywhere.
"""

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from model.attention.documents import Documents
from model.discrete.inputs import check_condition, check_data, check_rows, given_tokens
from model.transformer.inputs import InputError, check_documents, check_mask, has_values
from model_factory.diffusion.objectives.losses import Objective
from model_factory.diffusion.objectives.row_losses import RowTerms
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.randomness import ROW_WIDTH, RowGenerators
from model_factory.diffusion.time_strata import stratified_times

if TYPE_CHECKING:
    from model.discrete.types import DiffusionConfig

LossWeighting = Literal["bound", "uniform"]
DrawnNoise = dict[str, Any]
"""Tensors of a step that only depend on its rows and its seed, as a dictionary, which loaders pin and move:

    x_t int64 [B, L] noisy tokens; level float32 [B] or [B, L], the noise level for the network
    kind, scalars, index, factor: of the loss's terms (`RowTerms`); weight float64 [K], of the terms in the loss; both
    weights are divided by the number of tokens; is_bound, whether the loss is the bound
    prior float32 [], the part of the bound that needs no network
    cond, the condition of each row, and dropped bool [B, 1], the rows whose source is left out, with prompt bool [B, L],
    their given tokens, where there are such
"""


class Given(NamedTuple):
    """Checked rows: int64 [B, L], real and counted tokens and given ones bool [B, L], documents, conditions, streams, times."""

    input_ids: Tensor
    mask: Tensor
    counted: Tensor
    given: Tensor | None
    documents: Tensor | None
    cond: Tensor | None
    dropped: Tensor | None
    generators: RowGenerators
    t: Tensor


class NoiseDrawer:
    """Drawing of the noise of a `DiffusionConfig`'s model; it holds no weights."""

    def __init__(self, config: "DiffusionConfig", process: DiffusionProcess, objective: Objective) -> None:
        self.config, self.process, self.objective = config, process, objective
        self.num_tokens = process.graph.num_tokens
        self.has_row_form = objective.has_row_form
        self.inserts = objective.extra_outputs(config.sequence_length) > 0
        self.block_size: int | None = getattr(objective, "block_size", None)

    def check(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cond: Tensor | None = None,
        *,
        response_mask: Tensor | None = None,
        documents: Tensor | None = None,
        rows: Tensor | None = None,
        batch_size: int | None = None,
        seed: int | None = None,
        is_training: bool = True,
    ) -> Given:
        """Check rows int [B, L], draw their times and, in training, which conditions and sources are left out.

        Arguments and errors are those of `DiffusionModel.forward`.
        """
        input_ids, mask = check_data(input_ids, attention_mask, self.num_tokens)
        check_condition(self.config.condition, cond, len(input_ids))
        check_mask(response_mask, input_ids, "response_mask")
        if self.inserts and (documents is not None or response_mask is not None):
            raise InputError("an objective that inserts tokens takes rows of one text: no documents, no response_mask")
        counted = mask if response_mask is None else mask & response_mask
        documents = None if documents is None else check_documents(documents, input_ids)
        seed = int(torch.randint(2**62, ())) if seed is None else seed
        rows = check_rows(rows, input_ids)
        t = stratified_times(rows, batch_size or len(input_ids), seed)
        generators = RowGenerators.from_seed(seed + 1, rows, ROW_WIDTH)
        if cond is not None and is_training:
            cond = self._drop_condition(cond, generators)
        share, dropped = self.config.source_dropout, None
        if is_training and share:
            dropped = generators.rand(1) < share
        given, t = given_tokens(mask, response_mask), self.times(t, input_ids, documents)
        return Given(input_ids, mask, counted, given, documents, cond, dropped, generators, t)

    def draw(self, rows: Given, loss_weighting: LossWeighting = "bound") -> DrawnNoise:
        """Draw the noise of a training step, for an objective with row terms or of insertions; no network is called.

        Raises TokenError, TimeError and ShapeError.
        """
        if self.inserts:
            return self._draw_insertions(rows, loss_weighting)
        noised = self.objective.draw(rows.input_ids, rows.t, rows.generators, ~rows.counted, training=True)
        terms = self.objective.row_terms(noised, rows.input_ids, ~rows.counted)
        assert terms is not None  # has_row_form
        count = rows.counted.sum().clamp_min(1)
        prior = self.objective.training_prior(rows.input_ids.masked_fill(~rows.counted, 0))
        sigma = self.process.graph.conditioning_level(self.process.schedule.sigma(noised.t), rows.given)
        drawn: DrawnNoise = {"x_t": noised.x_t, "level": self.level(sigma)}
        drawn |= {"kind": terms.kind, "scalars": terms.scalars, "index": terms.index, "factor": terms.factor / count}
        drawn["is_bound"] = loss_weighting == "bound"
        drawn["weight"] = drawn["factor"] if drawn["is_bound"] else terms.even_factor / count
        drawn["prior"] = (prior.masked_fill(~rows.counted, 0.0).sum() / count).to(torch.float32)
        prompt = None if rows.dropped is None else rows.mask & ~rows.counted
        optional = {"cond": rows.cond, "dropped": rows.dropped, "prompt": prompt}
        return drawn | {name: value for name, value in optional.items() if value is not None}

    def _draw_insertions(self, rows: Given, loss_weighting: LossWeighting) -> DrawnNoise:
        """Draw as `draw`: what the objective's `draw_insertions` returns, with level, is_bound and cond."""
        objective: Any = self.objective
        drawn: DrawnNoise = objective.draw_insertions(rows.input_ids, rows.t, rows.generators, ~rows.counted)
        drawn |= {"level": self.level(drawn["sigma"]), "is_bound": loss_weighting == "bound"}
        return drawn if rows.cond is None else drawn | {"cond": rows.cond}

    def times(self, t: Tensor, input_ids: Tensor, documents: Tensor | None = None, objective: Any = None) -> Tensor:
        """Return the times [B] or [B, L] at which tokens [B, L] are noised; see `DiffusionModel.times`."""
        objective = objective or self.objective
        if documents is not None and self.block_size is not None:
            return objective.times(t, input_ids, Documents(documents).positions)  # type: ignore[no-any-return]
        return objective.times(t, input_ids)  # type: ignore[no-any-return]

    def level(self, sigma: Tensor) -> Tensor:
        """Return noise levels sigma [B] or [B, L] as the network takes them, float32: sigma, or the time in [0, 1].

        Levels outside the schedule's have its ends.
        """
        if not self.config.backbone.takes_time:
            return sigma.to(torch.float32)
        if not has_values(sigma):  # fake tensors of a summary
            return torch.ones_like(sigma, dtype=torch.float32)
        schedule = self.process.schedule
        low, high = (float(schedule.sigma(end)) for end in (0.0, 1.0))
        return schedule.inverse(sigma.double().clamp(low, high)).to(torch.float32)

    def null_condition(self, cond: Tensor) -> Tensor:
        """Return the null condition, of the shape of cond [B] or [B, size]: the class after the last, or NaN."""
        condition = self.config.condition
        assert condition is not None
        return torch.full_like(cond, torch.nan if condition.num_classes is None else condition.num_classes)

    def _drop_condition(self, cond: Tensor, generators: RowGenerators) -> Tensor:
        """Replace the conditions of randomly chosen rows by the null condition."""
        condition = self.config.condition
        assert condition is not None
        dropped = generators.rand(1)[:, 0] < condition.dropout
        return torch.where(dropped.view(-1, *[1] * (cond.dim() - 1)), self.null_condition(cond), cond)


def check_weighting(loss_weighting: str) -> None:
    """Raise InputError for another `loss_weighting` than bound or uniform."""
    if loss_weighting not in get_args(LossWeighting):
        raise InputError(f"loss_weighting is {loss_weighting!r}; expected bound or uniform")


def terms_of(drawn: DrawnNoise) -> RowTerms:
    """Return the terms of the loss, with weights that are divided by the number of tokens."""
    return RowTerms(drawn["kind"], drawn["scalars"], drawn["index"], drawn["factor"], drawn["weight"])
