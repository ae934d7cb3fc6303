"""Predictor-corrector samplers for any process: the Psi-samplers (Deschenaux et al. 2026)."""

from torch import Tensor

from model_factory.diffusion.errors import check_number
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.processes.forward_process import Graph, per_token
from model_factory.diffusion.samplers.base import Proposal, Sampler
from model_factory.diffusion.samplers.denoiser import Denoiser
from model_factory.diffusion.samplers.state import SamplerState


class PredictorCorrectorSampler(Sampler):
    """With probability kappa a token takes the ancestral step, else it is drawn clean and noised again to time s.

    The Psi-posterior of Deschenaux et al. (2026, arXiv 2602.21185) is kappa q(x_s | x_t, x_0) + (1 - kappa) q(x_s | x_0)
    over x_0 given x_t, and keeps q(x_s | x_0) of each token for any kappa. Under absorbing noise, remasking is the case
    kappa = 1 - rho / (1 - alpha_s).

    Arguments:
        kappa: from 0, corrector only, to 1, which is `ancestral`.
        t_on, t_off: steps at t_off < t <= t_on correct; the others are ancestral.
    Raises SettingError.
    """

    def __init__(
        self,
        process: DiffusionProcess,
        denoiser: Denoiser,
        steps: int,
        *,
        kappa: float = 0.95,
        t_on: float = 0.5,
        t_off: float = 0.1,
    ) -> None:
        super().__init__(process, denoiser, steps)
        self.kappa = check_number("kappa", kappa, 0.0, 1.0)
        self.t_on = check_number("t_on", t_on, 0.0, 1.0)
        self.t_off = check_number("t_off", t_off, 0.0, self.t_on)

    def propose(self, state: SamplerState) -> Proposal:
        """Propose the mixture of both steps, from the distribution of the clean token."""
        graph, x_t = self.process.graph, state.tokens
        sigma, sigma_next = self.levels(state)
        x_0 = self.denoiser.log_x0(x_t, sigma).exp()
        predicted = Proposal(*graph.reverse_posterior(x_0, x_t, sigma, sigma_next))
        if not self.t_off < self.time(state.step) <= self.t_on:
            return predicted
        corrected = renoise(graph, x_0, x_t, sigma, sigma_next)
        return mix_with_corrector(predicted, corrected, self.kappa, x_t)


def renoise(graph: Graph, x_0: Tensor, x_t: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """Return the distribution [B, L, dim] of q(x_s | x_0) at sigma_next, averaged over x_0 given x_t [B, L].

    `x_0` [B, L, dim] is the distribution of the clean token given the *other* tokens, as networks predict it. Times
    q(x_t | x_0) and normalised, it is the posterior of x_0 given all of x_t.
    """
    sigma, sigma_next = per_token(sigma, x_t), per_token(sigma_next, x_t)
    posterior = x_0 * graph.transition_into(x_t, sigma, sigma)
    posterior = posterior / posterior.sum(-1, keepdim=True)
    return (-sigma_next).exp()[..., None] * posterior + graph.noise(sigma_next)


def mix_with_corrector(predicted: Proposal, corrected: Tensor, kappa: float, x_t: Tensor) -> Proposal:
    """Mix the proposal, with weight kappa, and probabilities `corrected` [B, L, dim] at tokens x_t, int64 [B, L].

    Probabilities of leaving x_t are summed, so that rare moves keep their precision.
    """
    own = x_t[..., None]
    target = predicted.target.scatter(-1, own, 0.0)
    total = target.sum(-1, keepdim=True)
    leave = kappa * predicted.move[..., None] * target / total.clamp_min(1e-300)
    leave = leave + (1 - kappa) * corrected.scatter(-1, own, 0.0)
    return Proposal(leave.sum(-1).clamp_max(1.0), leave)
