"""Semi-autoregressive sampling: noise levels passed to the network, allowed prompts, and calls of each block."""

import pytest
import torch
from torch import Tensor

from model_factory.diffusion.errors import SettingError
from model_factory.diffusion.objectives.parameterisation import X0Parameterisation
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.processes.graph import AbsorbingGraph
from model_factory.diffusion.processes.noise_schedule import CosineNoise
from model_factory.diffusion.randomness import RowGenerators
from model_factory.diffusion.samplers.base import Sampler, create_sampler
from model_factory.diffusion.samplers.denoiser import Denoiser
from model_factory.diffusion.samplers.state import SamplerState, start_state

N, LENGTH, BLOCK = 3, 7, 3
PROCESS = DiffusionProcess(AbsorbingGraph(N), CosineNoise(0.05))


def made(blocks: int | None, steps: int, mask: Tensor | None = None) -> tuple[Sampler, list[tuple[Tensor, Tensor]]]:
    asked: list[tuple[Tensor, Tensor]] = []

    def network(x_t: Tensor, sigma: Tensor, mask: Tensor | None = None) -> Tensor:
        asked.append((x_t.clone(), sigma))
        return torch.zeros(*x_t.shape, N + 1)

    denoiser = Denoiser(network, X0Parameterisation(PROCESS.graph), block_size=blocks, mask=mask)
    choice = {"type": "semi_autoregressive", "block_size": BLOCK}
    return create_sampler(choice, PROCESS, denoiser, steps), asked


def begun(rows: int, prompt: Tensor | None = None) -> SamplerState:
    return start_state(
        PROCESS.graph, rows, LENGTH, prompt=prompt, generators=RowGenerators.from_seed(4, torch.arange(rows))
    )


def level(share: float) -> float:
    """Return the sigma at which 1 - alpha is this share of its value at t = 1, 0.95."""
    return float(-torch.log1p(torch.tensor(-0.95 * share, dtype=torch.float64)))


@pytest.mark.parametrize("blocks", [None, BLOCK])
@pytest.mark.parametrize("steps", [LENGTH, 5, 3])
def test_blockwise_sigma_matches_visible_mask_share(blocks: int | None, steps: int) -> None:
    """The mask share is that of the row or of the current block; a prompt counts in neither."""
    sampler, asked = made(blocks, steps)
    state = sampler.begin(begun(2, torch.tensor([1])))
    written = torch.arange(1, LENGTH)
    turns = [
        block for block, calls in enumerate({7: (3, 3, 1), 5: (2, 2, 1), 3: (1, 1, 1)}[steps]) for _ in range(calls)
    ]
    while not sampler.is_finished(state):
        before, calls = state, len(asked)
        state = sampler.step(state)
        if len(asked) == calls:  # the prompt leaves nothing to unmask in this call
            continue
        x_t, sigma = asked[-1]
        masked = x_t == N
        current = int(masked[0].nonzero()[0]) // BLOCK
        places = written if blocks is None else written[written // BLOCK == current]
        for row in range(len(x_t)):
            share = float(masked[row, places].double().mean())
            assert float(sigma[row]) == pytest.approx(level(share), rel=1e-9)
        unmasked = (before.tokens == N) & (state.tokens != N)
        assert set((unmasked.nonzero()[:, 1] // BLOCK).tolist()) == {current}
        left = state.tokens == N
        if not bool(left.any()):
            assert state.t.tolist() == [0.0, 0.0]
            continue
        following = turns[state.step]
        places = written if blocks is None else written[written // BLOCK == following]
        shares = left[:, places].double().mean(1)
        expected = torch.tensor([level(float(share)) for share in shares], dtype=torch.float64)
        torch.testing.assert_close(state.t, PROCESS.schedule.inverse(expected), rtol=1e-9, atol=1e-12)
    assert len(asked) == {LENGTH: 6, 5: 5, 3: 3}[steps]  # one per mask if steps allow, including the prompt's block
    assert state.network_calls.tolist() == [len(asked)] * 2


def test_blockwise_prompt_allows_only_padding_after_block() -> None:
    real = torch.tensor([[True] * 5 + [False] * 2])
    tokens = torch.ones(1, LENGTH, dtype=torch.int64)
    frozen = torch.tensor([[True, False, False, False, False, True, True]])
    state = start_state(
        PROCESS.graph, 1, LENGTH, prompt=tokens, frozen=frozen, generators=RowGenerators.from_seed(4, torch.arange(1))
    )
    padded, _ = made(BLOCK, LENGTH, real)
    assert padded.begin(state).cache["turn"][0, [0, 5, 6]].tolist() == [-1, -1, -1]
    with pytest.raises(SettingError, match="frozen: got a token after the first block"):
        made(BLOCK, LENGTH)[0].begin(state)
    made(None, LENGTH)[0].begin(state)  # a network with full attention may have a suffix
    inside = torch.tensor([[True, False, True, False, False, False, False]])
    kept = start_state(
        PROCESS.graph, 1, LENGTH, prompt=tokens, frozen=inside, generators=RowGenerators.from_seed(4, torch.arange(1))
    )
    made(BLOCK, LENGTH)[0].begin(kept)


def test_blockwise_steps_are_shared_between_blocks() -> None:
    """7 positions in blocks of 3, 3 and 1; tokens of a block are spread evenly over its calls."""
    masked = torch.ones(1, LENGTH, dtype=torch.bool)
    draws = torch.tensor([[0.9, 0.1, 0.5, 0.2, 0.3, 0.1, 0.7]], dtype=torch.float64)
    for steps, expected in (
        (7, [2, 0, 1, 4, 5, 3, 6]),
        (100, [2, 0, 1, 4, 5, 3, 6]),
        (1, [0, 0, 0, 1, 1, 1, 2]),
        (5, [1, 0, 0, 2, 3, 2, 4]),
    ):
        assert made(None, steps)[0].turns(masked, draws)[0].tolist() == expected
    masked[0, 1] = masked[0, 5] = masked[0, 6] = False
    assert made(None, 7)[0].turns(masked, draws)[0].tolist() == [1, -1, 0, 3, 4, -1, -1]
