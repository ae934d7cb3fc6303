"""Blockwise models: attention, the cached prefix, and sampling."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.denoisers.blocks import BlockReader
from model.denoisers.calling import DenoiserCallError
from model.denoisers.registry import BACKBONES, register_backbone
from model.discrete.model import DiffusionModel
from model.discrete.types import DiffusionConfig
from model.transformer.inputs import InputError
from model_factory.diffusion.errors import SettingError
from tests.model.test_diffusion_model import read, section

VOCAB, LENGTH, BLOCK = 7, 14, 4
DDIT = {"type": "ddit", "d_model": 32, "num_layers": 2, "num_heads": 2, "cond_dim": 16, "dropout": 0.0, "device": "cpu"}


def build(block_size: int = BLOCK, **more: Any) -> DiffusionModel:
    torch.manual_seed(0)
    objective = {"type": "bd3lm", "block_size": block_size} if block_size else {"type": "mdlm"}
    config = {"objective": objective, "backbone": DDIT, "vocab_size": VOCAB, "length": LENGTH, **more}
    model = DiffusionModel(DiffusionConfig.model_validate(config)).eval()
    for parameter in model.parameters():  # adaLN is initialised to zero, which would hide the inputs
        nn.init.normal_(parameter, std=0.2)
    return model


def doubled(model: DiffusionModel, x_t: Tensor, x_0: Tensor, sigma: Tensor, **more: Any) -> Tensor:
    """Return the whole output for [x_t ; x_0], as called in training."""
    levels = sigma[:, None].expand(x_t.shape)
    both = torch.cat([x_t, x_0], 1), torch.cat([levels, torch.zeros_like(levels)], 1)
    return model.denoise(*both, **more)[:, : x_t.shape[1]]


def half_written(block: int) -> tuple[Tensor, Tensor]:
    """Return clean tokens, and noisy ones with some masks in a block and only masks after it."""
    x_0 = torch.randint(VOCAB, (3, LENGTH))
    x_t = x_0.clone()
    x_t[:, block * BLOCK + 1 :] = VOCAB
    x_t[0, block * BLOCK] = VOCAB
    return x_0, x_t


@pytest.mark.parametrize("time_conditioning", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_block_prefix_cache_matches_full_pass(time_conditioning: bool, padded: bool) -> None:
    model = build(time_conditioning=time_conditioning)
    reader = BlockReader(model._predict, model.process.graph.is_masked, BLOCK)
    sigma = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    mask = torch.arange(LENGTH) < torch.tensor([[LENGTH], [LENGTH - 1], [LENGTH]]) if padded else None
    x_0, _ = half_written(0)
    with torch.no_grad():
        for block in (0, 1, 1, 3):  # block 2 is skipped, so that two are cached at once
            _, x_t = half_written(block)
            x_t[:, : block * BLOCK] = x_0[:, : block * BLOCK]
            positions = slice(block * BLOCK, (block + 1) * BLOCK)
            expected = doubled(model, x_t, x_t, sigma, mask=mask)
            for _ in range(2):
                torch.testing.assert_close(reader(x_t, sigma, mask=mask)[:, positions], expected[:, positions])
        other = x_t.clone()
        other[:, 0] = (other[:, 0] + 1) % VOCAB  # a prefix that is not the cached one
        expected = doubled(model, other, other, sigma, mask=mask)
        torch.testing.assert_close(reader(other, sigma, mask=mask)[:, positions], expected[:, positions])


def test_block_attends_to_itself_and_clean_earlier_blocks() -> None:
    model = build()
    x_0, x_t = torch.randint(VOCAB, (1, LENGTH)), torch.randint(VOCAB + 1, (1, LENGTH))
    sigma = torch.ones(1, dtype=torch.float64)
    before = doubled(model, x_t, x_0, sigma)
    for position in range(LENGTH):
        for clean in (False, True):
            changed = (x_0 if clean else x_t).clone()
            changed[0, position] = (changed[0, position] + 1) % VOCAB
            after = doubled(model, x_t, changed, sigma) if clean else doubled(model, changed, x_0, sigma)
            moved = ((after - before).abs().amax(-1) > 1e-6)[0]
            block, mine = torch.arange(LENGTH) // BLOCK, position // BLOCK
            assert torch.equal(moved, block > mine if clean else block == mine)


def test_one_block_equals_mdlm_exactly() -> None:
    block, plain = build(LENGTH), build(0)
    block.load_state_dict(plain.state_dict())
    tokens = torch.randint(VOCAB, (4, LENGTH))
    torch.testing.assert_close(block(tokens, seed=3).loss, plain(tokens, seed=3).loss)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_block_samples_do_not_depend_on_other_rows(batch_size: int) -> None:
    model = build(condition={"type": "class", "num_classes": 3})
    prompt = torch.randint(VOCAB, (5, 6))
    kept = torch.arange(6) < torch.tensor([[6], [5], [6], [4], [6]])
    options: dict[str, Any] = {"prompt": prompt, "frozen": kept, "cond": torch.tensor([0, 1, 2, 0, 1]), "guidance": 2.0}
    whole, split = (
        model.draw(5, generator=torch.Generator().manual_seed(1), batch_size=size, **options)
        for size in (None, batch_size)
    )
    assert torch.equal(whole.tokens, split.tokens)
    assert torch.equal(whole.tokens[:, :6][kept], prompt[kept])
    assert int(whole.tokens.max()) < VOCAB


def test_block_network_calls_double_with_guidance() -> None:
    model = build(condition={"type": "class", "num_classes": 3})
    assert model.draw(2).network_calls.tolist() == [LENGTH] * 2
    assert model.draw(2, steps=7).network_calls.tolist() == [7] * 2  # two per block, and one for the short last block
    assert model.draw(2, steps=1).network_calls.tolist() == [4] * 2
    assert model.draw(2, cond=torch.zeros(2, dtype=torch.int64), guidance=2.0).network_calls.tolist() == [28] * 2


def test_guided_block_samples_follow_guided_distribution() -> None:
    """The cached prefixes with and without the condition are kept separate."""
    model = build(condition={"type": "class", "num_classes": 3})
    cond = torch.tensor([0, 1, 2])
    denoiser = model._denoiser(cond, 3, guidance=3.0)
    _, x_t = half_written(2)
    sigma = torch.ones(3, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(2):
            found = denoiser.output(x_t, sigma)[:, 2 * BLOCK : 3 * BLOCK]
        plain, asked = (
            doubled(model, x_t, x_t, sigma, cond=one)[:, 2 * BLOCK : 3 * BLOCK]
            for one in (torch.full_like(cond, 3), cond)
        )
    torch.testing.assert_close(found, plain + 3 * (asked - plain), atol=1e-4, rtol=1e-4)


def test_block_model_errors() -> None:
    model = build()
    frozen = torch.zeros(LENGTH, dtype=torch.bool)
    frozen[-1] = True
    with pytest.raises(SettingError, match="blocks do not attend to later ones"):
        model.draw(1, prompt=torch.zeros(LENGTH, dtype=torch.int64), frozen=frozen)
    with pytest.raises(InputError, match="even number"):
        model.denoise(torch.zeros(1, 5, dtype=torch.int64), 1.0)
    performer = {"type": "performer", "d_model": 16, "num_layers": 1, "num_heads": 2}
    _, problems = read(section(objective="bd3lm", backbone=performer))
    assert len(problems) == 1
    assert "which backbone performer does not" in problems[0]


def test_custom_network_needs_blocks_argument() -> None:
    class Plain(nn.Module):
        def forward(self, x_t: Tensor, sigma: Tensor | None) -> Tensor:
            return torch.zeros(*x_t.shape, VOCAB + 1)

    register_backbone("claims-blocks", takes_blocks=True)(lambda config, vocab_size: Plain())
    try:
        with pytest.raises(DenoiserCallError, match="takes no 'blocks'"):
            build(backbone={"type": "claims-blocks"})
    finally:
        BACKBONES._entries.pop("claims-blocks")


@pytest.mark.parametrize(
    ("objective", "schedule"),
    [
        ({"type": "mdlm"}, {"type": "cosine"}),
        ({"type": "d3pm"}, {"type": "discrete", "num_steps": 7, "curve": "cosine"}),
        ({"type": "bd3lm", "block_size": BLOCK}, {"type": "cosine"}),
    ],
)
def test_uniform_weighting_is_cross_entropy_at_masks(objective: dict[str, Any], schedule: dict[str, Any]) -> None:
    """A network of zeros has log N nats at each mask, so that the loss counts masks, an integer."""
    model = build(0, objective=objective, schedule=schedule)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    tokens = torch.randint(VOCAB, (8, LENGTH))
    masks = model(tokens, seed=2, loss_weighting="uniform").loss.item() * tokens.numel() / math.log(VOCAB)
    assert masks > 10
    assert masks == pytest.approx(round(masks), abs=1e-3)


def test_prefix_cache_is_per_condition_and_padding() -> None:
    """Batches with the same first tokens follow each other, and tensors of earlier batches are freed."""
    model = build(condition={"type": "class", "num_classes": 3})
    reader = BlockReader(model._predict, model.process.graph.is_masked, BLOCK)
    _, x_t = half_written(2)
    sigma, positions = torch.ones(3, dtype=torch.float64), slice(2 * BLOCK, 3 * BLOCK)

    def check(cond: Tensor, mask: Tensor | None = None) -> None:
        expected = doubled(model, x_t, x_t, sigma, cond=cond, mask=mask)[:, positions]
        torch.testing.assert_close(reader(x_t, sigma, mask=mask, cond=cond)[:, positions], expected)

    with torch.no_grad():
        for kind in (0, 1, 2, 0):
            check(torch.full((3,), kind))
        cond = torch.zeros(3, dtype=torch.int64)
        for first in (0, 1, 2):
            check(cond, (torch.arange(LENGTH) >= first).expand(3, -1))
