"""Exact distribution of samples: a sampler's kernels K[x -> y] = prod_l p_l(y_l | x), multiplied over all sequences."""

from dataclasses import replace
from itertools import permutations

import torch
from torch import Tensor

from model_factory.diffusion.objectives.parameterisation import Parameterisation, X0Parameterisation
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.randomness import RowGenerators
from model_factory.diffusion.samplers.base import Sampler, SamplerChoice, create_sampler
from model_factory.diffusion.samplers.denoiser import Denoiser
from model_factory.diffusion.samplers.entropy_bounded import EntropyBoundedSampler
from model_factory.diffusion.samplers.semi_autoregressive import SemiAutoregressiveSampler
from model_factory.diffusion.samplers.standard import FirstHittingSampler
from model_factory.diffusion.samplers.state import SamplerState
from tests.oracles.diffusion_toy import LENGTH, VOCABULARY, Toy


def oracle_sampler(
    toy: Toy,
    process: DiffusionProcess,
    choice: SamplerChoice,
    steps: int,
    parameterisation: Parameterisation | None = None,
    frozen: Tensor | None = None,
) -> Sampler:
    """Create a sampler whose network is the oracle, in the given parameterisation, told of frozen places, bool [3]."""
    reading = parameterisation or X0Parameterisation(process.graph)

    def network(x_t: Tensor, sigma: Tensor) -> Tensor:
        return reading.output_from_x0(toy.oracle(x_t, sigma), x_t, sigma)

    given = None if frozen is None else frozen.expand(len(toy.states), -1)
    return create_sampler(choice, process, Denoiser(network, reading, given=given), steps)


def state_of(tokens: Tensor, frozen: Tensor | None = None) -> SamplerState:
    """Return a state at t = 1 with the given tokens, [B, 3]."""
    rows = len(tokens)
    return SamplerState(
        tokens=tokens,
        t=torch.ones(rows, dtype=torch.float64),
        generators=RowGenerators.from_seed(0, torch.arange(rows)),
        frozen=torch.zeros_like(tokens, dtype=torch.bool) if frozen is None else frozen,
        network_calls=torch.zeros(rows, dtype=torch.int64),
    )


def kernel(sampler: Sampler, state: SamplerState) -> Tensor:
    """Return K [dim^3, dim^3] of one step, for a state whose rows are all sequences."""
    probs = sampler.propose(state).probabilities(state.tokens, state.frozen)
    rows = torch.einsum("na,nb,nc->nabc", *probs.unbind(1))
    return rows.reshape(len(probs), -1)


def prior(toy: Toy, frozen: Tensor | None = None, limit: Tensor | None = None) -> Tensor:
    """Return the initial distribution of sampling, [dim^3], with token 1 at the frozen positions [3].

    `limit` [dim] is the limit of each position, by default the toy's.
    """
    single = torch.zeros(toy.dim, dtype=torch.float64)
    single[VOCABULARY if toy.absorbing else slice(None)] = 1.0 if toy.absorbing else 1 / VOCABULARY
    single = single if limit is None else limit
    kept = torch.zeros_like(single)
    kept[1] = 1.0
    places = [kept if frozen is not None and bool(frozen[k]) else single for k in range(LENGTH)]
    return torch.einsum("a,b,c->abc", *places).flatten()


def sampler_distribution(toy: Toy, sampler: Sampler, frozen: Tensor | None = None) -> Tensor:
    """Return the distribution of the sampler's output over all sequences, [dim^3].

    `frozen`, bool [3], holds token 1 at its places. Times drawn by first-hitting are averaged over their orders, and
    entropy-bounded unmasks at least one token with each kernel, which keeps clean sequences.
    """
    keep = None if frozen is None else frozen.expand(len(toy.states), -1)
    state = state_of(toy.states, keep)
    free = LENGTH if frozen is None else LENGTH - int(frozen.sum())
    if isinstance(sampler, FirstHittingSampler):
        distributions = [
            _first_hitting_distribution(toy, sampler, state, order, free, frozen)
            for order in permutations(range(LENGTH))
        ]
        return torch.stack(distributions).mean(0)
    if isinstance(sampler, SemiAutoregressiveSampler):
        distributions = [
            _block_distribution(toy, sampler, state, order, frozen) for order in permutations(range(LENGTH))
        ]
        return torch.stack(distributions).mean(0)
    state = replace(sampler.begin(state), cache={"masks": torch.full((len(toy.states),), free)})
    probs = prior(toy, frozen, sampler.process.graph.limit)
    for _ in range(free if isinstance(sampler, EntropyBoundedSampler) else sampler.steps):
        probs = probs @ kernel(sampler, state)
        state = sampler.advance(state, state.tokens, torch.zeros_like(state.network_calls))
    return probs


def _first_hitting_distribution(
    toy: Toy, sampler: Sampler, state: SamplerState, order: tuple[int, ...], free: int, frozen: Tensor | None
) -> Tensor:
    hits = torch.tensor([3.0, 1.0, 0.2], dtype=torch.float64)[torch.tensor(order)]
    state = replace(state, cache={"hit_sigma": hits.expand(len(toy.states), -1)})
    probs, step = prior(toy, frozen), kernel(sampler, state)
    for _ in range(free):
        probs = probs @ step
    return probs


def _block_distribution(
    toy: Toy, sampler: SemiAutoregressiveSampler, state: SamplerState, order: tuple[int, ...], frozen: Tensor | None
) -> Tensor:
    free = torch.ones(LENGTH, dtype=torch.bool) if frozen is None else ~frozen
    turns = sampler.turns(free[None], torch.tensor([order], dtype=torch.float64) / LENGTH)
    state = replace(state, cache={"turn": turns.expand(len(toy.states), -1)})
    probs = prior(toy, frozen, sampler.process.graph.limit)
    for step in range(int(turns.max()) + 1):
        probs = probs @ kernel(sampler, replace(state, step=step))
    return probs


def divergence(toy: Toy, probs: Tensor) -> float:
    """Return KL(data, probs) in nats, for a distribution over all sequences, [dim^3]."""
    reached = probs.reshape((toy.dim,) * LENGTH)[:VOCABULARY, :VOCABULARY, :VOCABULARY]
    return float((toy.joint * (toy.joint / reached).log()).sum())
