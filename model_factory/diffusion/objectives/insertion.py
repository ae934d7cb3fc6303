"""FlexMDM (Kim et al. 2025, arXiv 2509.01025): tokens are inserted as masks and then unmasked, so rows have any length.

Backwards in time a row begins empty. With m(t) the probability that a token is not there yet, a gap with g missing
tokens gets a mask at the rate g m' / m, and a mask becomes its token at the rate m' / m. The network predicts both
the tokens of masks and the missing tokens of gaps.

The published loss compares the network with the rates of one alignment of x_t with x_0, which the generator does not
know: at its own optimum it lies above the entropy by 0.5 to 1.8 nats on toy languages of up to four letters. `FlexMdmLoss` averages these
rates over all alignments, which makes the bound tight; the expected gradients of both are equal.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from model_factory.diffusion.errors import ShapeError
from model_factory.diffusion.objectives.alignment import ABSENT, align, gaps_between, has_gap, left_align
from model_factory.diffusion.objectives.losses import Denoise, LossParts, Objective
from model_factory.diffusion.objectives.parameterisation import X0Parameterisation
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.randomness import Randomness, uniform

_SMALLEST = 1e-300


class GapParameterisation(X0Parameterisation):
    """Interpretation of outputs [B, L + 1, dim + extra] of rows with an anchor in front: tokens, then the gap after each.

    With `counts` the extra outputs are logits of 0, 1, ... missing tokens, else one number whose softplus is their
    expectation. Both are scaled by the probability m that a token is missing, so that an untrained network has finite
    losses at all times: k missing tokens get the factor m^k that Bayes' rule gives them, and the expectation gets m.
    """

    variable_length: ClassVar[bool] = True

    def __init__(self, process: DiffusionProcess, *, counts: bool) -> None:
        super().__init__(process.graph)
        self.counts = counts
        self._start = float(process.schedule.sigma(0.0))
        self._range = float(process.schedule.alpha(0.0) - process.schedule.alpha(1.0))

    def missing(self, sigma: Tensor) -> Tensor:
        """Return the probability that a token is missing at sigma, of its shape: from 0 at t = 0 to 1 at t = 1."""
        lost = -torch.expm1(self._start - sigma.to(torch.float64)) * math.exp(-self._start)
        return (lost / self._range).clamp(0.0, 1.0)

    def log_x0(self, output: Tensor, x_t: Tensor, sigma: Tensor) -> Tensor:
        """Return log-probabilities [..., dim] of clean tokens from outputs at these tokens; raise ShapeError."""
        return super().log_x0(output[..., : self.graph.dim], x_t, sigma)

    def log_gaps(self, output: Tensor, sigma: Tensor) -> Tensor:
        """Return log-probabilities [B, L + 1, K + 1] of 0 to K missing tokens in each gap, at sigma [B]."""
        logits = output[..., self.graph.dim :].to(torch.float64)
        sizes = torch.arange(logits.shape[-1], device=logits.device)
        return torch.log_softmax(logits + sizes * self.missing(sigma).clamp_min(_SMALLEST).log()[:, None, None], -1)

    def expected_gaps(self, output: Tensor, sigma: Tensor) -> Tensor:
        """Return the expected number of missing tokens in each gap, [B, L + 1], at sigma [B]."""
        if self.counts:
            probs = self.log_gaps(output, sigma).exp()
            return (probs * torch.arange(probs.shape[-1], device=probs.device)).sum(-1)
        return self.missing(sigma)[:, None] * F.softplus(output[..., self.graph.dim].to(torch.float64))


@dataclass(frozen=True)
class InsertionParts(LossParts):
    """Parts of FlexMDM's bound, [B, L] float64: of the diffusion part, `insertion` is due to insertions."""

    insertion: Tensor | None = None

    def named(self) -> dict[str, Tensor]:
        """Return the parts by the names under which they are reported; prior and reconstruction are always zero."""
        assert self.insertion is not None
        return {"unmasking": self.diffusion - self.insertion, "insertion": self.insertion}


class FlexMdmLoss(Objective):
    """The tight bound of FlexMDM, with the same schedule for insertions and unmasking, rescaled to end in an empty row.

    Tokens of a row that has ended are ABSENT. The diffusion part is all of the bound: rows are empty at t = 1, and
    whole at t = 0. With `counts` training replaces the deviance of the expected gaps, a Poisson one, by the cross-entropy
    of the gaps' sizes, which the thinned sampler draws from.
    """

    parameterisation: GapParameterisation

    def __init__(self, process: DiffusionProcess, *, counts: bool = True) -> None:
        super().__init__(process, GapParameterisation(process, counts=counts))

    def extra_outputs(self, length: int | None) -> int:
        """Return the number of outputs at a token beside its logits: 1, or the sizes 0 to `length` of a gap.

        Raises ValueError without a length where it is needed.
        """
        if not self.parameterisation.counts:
            return 1
        if length is None:
            raise ValueError(
                "objective flexmdm predicts gaps of 0 to length tokens: set length in the model's section or "
                "sequence_length in the data set, or gaps: expected"
            )
        return length + 1

    def weight(self, t: Tensor) -> Tensor:
        """Return m' / m of the shape of t: the rate at which a missing token is inserted, and a mask becomes a token."""
        return self.schedule.rate(t) / torch.expm1(self.schedule.sigma(t) - self.schedule.sigma(0.0))

    def corrupt(self, x_0: Tensor, t: Tensor, generator: Randomness = None) -> tuple[Tensor, Tensor]:
        """Draw x_t from rows x_0 int [B, L] at times t [B]; return it, and the positions int [B, L] of its tokens in x_0.

        A token is missing with probability m and a mask with probability -m log m. Two uniforms are drawn for each
        token, so that a row's noise does not depend on how far a batch is padded.
        """
        missing = self.parameterisation.missing(self.schedule.sigma(t))[:, None]
        inserted, unmasked = uniform((*x_0.shape, 2), generator, x_0.device).unbind(-1)
        noisy = torch.where(unmasked * inserted < missing, self.graph.dim - 1, x_0)
        return left_align(noisy, (x_0 != ABSENT) & (inserted >= missing))

    def diffusion(self, output: Tensor, x_t: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
        """Return the tight bound's integrand [B, L] at times t [B]; raise TokenError, TimeError and ShapeError.

        Rows x_t and x_0, int [B, L], end in ABSENT; output is [B, L + 1, dim + extra].
        """
        unmasking, insertion = self.split(output, x_t, x_0, t)
        return unmasking + insertion

    def split(self, output: Tensor, x_t: Tensor, x_0: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the parts of `diffusion` due to unmasking and to insertions, [B, L] each."""
        return self._split(output, self._facts(x_t, x_0, t))

    def draw_insertions(
        self, x_0: Tensor, t: Tensor, generator: Randomness = None, frozen: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Draw the noise of rows x_0 [B, L], and all of their loss that needs no network, for `parts_of`.

        Arguments and errors are those of `parts`. It is x_t int [B, L], sigma and weight [B]; for the M masks index int64
        [M], their places through all rows, and posterior, merged and tokens [M, L]; gaps and sizes [B, L + 1].
        """
        if t.dim() != 1:
            raise ShapeError("t", f"shape {list(t.shape)}", f"[{len(x_0)}], one time for each row")
        t = self.times(t, x_0)
        x_0 = _without_ends(x_0, torch.ones_like(x_0, dtype=torch.bool) if frozen is None else ~frozen)
        x_t, origin = self.corrupt(x_0, t, generator)
        return {**self._facts(x_t, x_0, t), "sizes": gaps_between(origin, x_t, x_0)}

    def parts_of(self, output: Tensor, drawn: dict[str, Tensor]) -> InsertionParts:
        """Return the parts of the bound from outputs [B, L + 1, dim + extra] at the noise that was drawn."""
        unmasking, insertion = self._split(output, drawn)
        none = torch.zeros_like(insertion)
        found = InsertionParts(unmasking + insertion, none, none, weight=drawn["weight"], insertion=insertion)
        if not self.parameterisation.counts:
            return found
        return replace(found, loss=unmasking + self._gap_cross_entropy(output, drawn))

    def _gap_cross_entropy(self, output: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        """Return the weighted cross-entropy [B, L] of the sizes of the gaps of x_t."""
        log_p = self.parameterisation.log_gaps(output, drawn["sigma"])
        sizes = drawn["sizes"].clamp_max(log_p.shape[-1] - 1)
        nats = _by_token(-log_p.gather(-1, sizes[..., None])[..., 0], drawn["x_t"])
        return drawn["weight"][:, None] * nats

    def _facts(self, x_t: Tensor, x_0: Tensor, t: Tensor) -> dict[str, Tensor]:
        """Return what `draw_insertions` does, except the sizes."""
        alignment, masked = align(x_t, x_0, self.graph.dim - 1), self.graph.is_masked(x_t)
        index = masked.flatten().nonzero()[:, 0]
        row = index // x_t.shape[1]
        posterior = alignment.positions.flatten(0, 1)[index]  # [masks, L]
        first = (x_0[:, :, None] == x_0[:, None]).to(torch.int8).argmax(-1)  # where each token of a row occurs first
        merged = torch.zeros_like(posterior).scatter_add(1, first[row], posterior)
        found = {"x_t": x_t, "sigma": self.schedule.sigma(t), "weight": self.weight(t), "index": index}
        found |= {"posterior": posterior, "merged": merged, "tokens": x_0.clamp_min(0)[row]}
        return found | {"gaps": alignment.gaps}

    def _split(self, output: Tensor, drawn: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the parts of `diffusion` due to unmasking and to insertions, [B, L] each."""
        x_t, sigma, index, weight = drawn["x_t"], drawn["sigma"], drawn["index"], drawn["weight"][:, None]
        at_masks = output[:, 1:].flatten(0, 1)[index], x_t.flatten()[index], sigma[index // x_t.shape[1]]
        log_p = self.parameterisation.log_x0(*at_masks)  # [masks, dim]
        predicted = torch.where(drawn["posterior"] > 0, log_p.gather(1, drawn["tokens"]), 0.0)
        divergence = (torch.xlogy(drawn["merged"], drawn["merged"]) - drawn["posterior"] * predicted).sum(-1)
        unmasking = torch.zeros(x_t.numel(), dtype=torch.float64, device=x_t.device).index_copy(0, index, divergence)
        expected, gaps = self.parameterisation.expected_gaps(output, sigma), drawn["gaps"]
        deviance = expected - gaps + torch.xlogy(gaps, gaps) - gaps * torch.where(gaps > 0, expected, 1.0).log()
        return weight * unmasking.view(x_t.shape), weight * _by_token(deviance, x_t)

    def parts(
        self,
        denoise: Denoise,
        x_0: Tensor,
        t: Tensor,
        generator: Randomness = None,
        frozen: Tensor | None = None,
        *,
        ends: bool = True,
    ) -> LossParts:
        """Corrupt the rows x_0 [B, L] at times t [B], call the network, and return the parts of the bound.

        `frozen` is True at padding, which is left out. So are the first and the last other token of each row, its begin
        and its end: they are always there and cost nothing, and a network need not learn where to insert them.
        `denoise` gets rows that end in ABSENT, and returns [B, L + 1, dim + extra]. Nats are at the tokens of x_t, those
        of a gap at the token before it. Raises TokenError, TimeError and ShapeError.
        """
        drawn = self.draw_insertions(x_0, t, generator, frozen)
        return self.parts_of(denoise(drawn["x_t"], drawn["sigma"]), drawn)


def _without_ends(x_0: Tensor, real: Tensor) -> Tensor:
    """Return the real tokens of each row [B, L] but the first and the last, at its front; ABSENT after them."""
    order = real.cumsum(1)
    inside = real & (order > 1) & (order < real.sum(1, keepdim=True))
    return left_align(x_0, inside)[0]


def _by_token(gaps: Tensor, x_t: Tensor) -> Tensor:
    """Sum values of gaps [B, L + 1] to tokens [B, L]: each gap to the token before it, the first one to the first."""
    gaps = gaps.masked_fill(~has_gap(x_t), 0.0)
    return torch.cat([gaps[:, :1] + gaps[:, 1:2], gaps[:, 2:]], 1)
