"""A convolution over token embeddings, and rotary heads that begin at the neighbours."""

from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.attention.rotary import rotate
from model.checkpoint import CheckpointError
from model.denoisers.local import STRENGTH, LocalConvolution
from model.model_factory import create_model, load_model
from model.parse_model_args import parse_model_config
from model_factory.experiment.training_types import LoraConfig
from model_factory.training.lora import add_adapters
from tests.model.test_diffusion_model import BACKBONE, LENGTH, VOCAB, build, read, section
from tests.model.test_documents import BACKBONES, assert_denoised_as_alone, denoiser
from tests.oracles.diffusion_toy import Toy

LOCAL = {"local_width": 5}
KINDS = {name: BACKBONES[name] for name in ("ddit", "performer softmax", "performer linear", "bert", "bert absolute")}


def local_denoiser(kind: str, **keys: Any) -> Any:
    return denoiser({**KINDS[kind], **LOCAL, **keys}, time_conditioning=True).network


def tokens(rows: int, length: int, size: int = VOCAB) -> Tensor:
    return torch.randint(size, (rows, length), generator=torch.Generator().manual_seed(1))


LEVEL = torch.tensor([0.3, 1.0])


# At first the function is that of the plain network.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keys", [LOCAL, {"local_width": 63, "local_groups": 8}], ids=str)
def test_an_untrained_convolution_changes_nothing(kind: str, keys: dict[str, int]) -> None:
    plain, local = (denoiser({**KINDS[kind], **more}, time_conditioning=True) for more in ({}, keys))
    added = set(local.state_dict()) - set(plain.state_dict())
    assert added == {"network.local.weight"}
    with torch.no_grad():
        assert local.state_dict()["network.local.weight"].abs().sum() > 0  # `denoiser` draws all weights
        local.load_state_dict(plain.state_dict(), strict=False)
        local.network.local.weight.zero_()
    x = tokens(2, LENGTH)
    assert torch.equal(local.network(x, LEVEL), plain.network(x, LEVEL))


def test_no_random_number_is_drawn_for_the_convolution() -> None:
    """A seed gives the same losses and samples with it and without, before the first step."""
    plain, local = build(), build(backbone={**BACKBONE["ddit"], **LOCAL})
    for name, weight in plain.state_dict().items():
        assert torch.equal(weight, local.state_dict()[name])
    x = tokens(4, LENGTH)
    assert torch.equal(plain(x, seed=1).loss, local(x, seed=1).loss)
    draws = [model.sample(2, steps=4, generator=torch.Generator().manual_seed(0)) for model in (plain, local)]
    assert torch.equal(*draws)


def test_the_first_step_reaches_the_convolution() -> None:
    model = denoiser({**KINDS["ddit"], **LOCAL})
    nn.init.zeros_(model.network.local.weight)
    model(tokens(4, LENGTH), seed=1).loss.backward()
    assert model.network.local.weight.grad.abs().sum() > 0


# It reads neighbours, in its row and document alone.


@pytest.mark.parametrize("groups", [1, 4])
def test_it_is_the_sum_over_neighbours(groups: int) -> None:
    layer = LocalConvolution(8, 5, groups).double()
    nn.init.normal_(layer.weight)
    x = torch.randn(1, 7, 8, dtype=torch.float64)
    wide = torch.zeros(8, 8, 5, dtype=torch.float64)  # the weights of all groups in one table
    for group, part in enumerate(layer.weight.detach().chunk(groups)):
        own = slice(group * 8 // groups, (group + 1) * 8 // groups)
        wide[own, own] = part
    expected = x[0].clone()
    for place in range(7):
        for tap in range(5):
            if 0 <= place + tap - 2 < 7:
                expected[place] += wide[:, :, tap] @ x[0, place + tap - 2]
    torch.testing.assert_close(layer(x, None, None)[0], expected)


@pytest.mark.parametrize("kernel", [3, 5, 9])
def test_a_token_is_seen_by_its_neighbours_alone(kernel: int) -> None:
    layer = LocalConvolution(4, kernel)
    nn.init.normal_(layer.weight)
    x = torch.randn(1, 13, 4)
    other = x.clone()
    other[0, 6] += 1
    changed = (layer(x, None, None) != layer(other, None, None)).any(-1)[0]
    assert changed.nonzero()[:, 0].tolist() == list(range(6 - kernel // 2, 6 + kernel // 2 + 1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_its_padding(kind: str) -> None:
    network = local_denoiser(kind).double()
    x, real = tokens(2, 12), torch.arange(12) < torch.tensor([[12], [7]])
    together = network(x, LEVEL, mask=real)
    torch.testing.assert_close(together[1, :7], network(x[1:, :7], LEVEL[1:])[0], atol=1e-12, rtol=0)
    other = torch.where(real, x, (x + 1) % VOCAB)
    assert torch.equal(network(other, LEVEL, mask=real)[real], together[real])


@pytest.mark.parametrize("kind", KINDS)
def test_documents_of_packed_rows_are_convolved_as_alone(kind: str) -> None:
    assert_denoised_as_alone(local_denoiser(kind, local_groups=2), torch.float64, VOCAB)


@pytest.mark.parametrize("length", [1, 2, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_may_be_shorter_than_the_convolution(kind: str, length: int) -> None:
    network = local_denoiser(kind, local_width=9)
    x = tokens(2, length)
    alone = network(x, LEVEL, documents=torch.ones_like(x))
    torch.testing.assert_close(network(x, LEVEL), alone)


def test_any_split_of_a_batch_gives_the_same_loss() -> None:
    model = denoiser({**KINDS["ddit"], **LOCAL}).double()
    x, real = tokens(6, LENGTH), torch.arange(LENGTH) < torch.tensor([8, 3, 1, 8, 5, 2])[:, None]
    whole = model(x, real, seed=3).loss * real.sum()
    rows = torch.arange(6).split(2)
    parts = []
    for part in rows:
        longest = int(real[part].sum(1).max())
        loss = model(x[part, :longest], real[part, :longest], rows=part, batch_size=6, seed=3).loss
        parts.append(loss * real[part].sum())
    torch.testing.assert_close(torch.stack(parts).sum(), whole)


# The bound stays one: a function of x_t alone, whose mean over masks is that over orders.


def test_the_bound_is_not_below_the_entropy_and_is_that_of_random_orders() -> None:
    toy = Toy.random(3, absorbing=True)
    size = len(toy.data[0])
    network = denoiser({**KINDS["ddit"], **LOCAL}, vocab_size=3, length=size).double().network
    logits = network(toy.states)[..., :3].log_softmax(-1).detach()
    index = {tuple(state): row for row, state in enumerate(toy.states.tolist())}
    by_count = by_order = 0.0
    for row, probability in zip(toy.data.tolist(), toy.joint.flatten().tolist(), strict=True):

        def nats(masked: tuple[int, ...], row: list[int] = row) -> Tensor:
            seen = tuple(3 if place in masked else token for place, token in enumerate(row))
            return -logits[index[seen], range(size), row]

        for masks in range(1, size + 1):
            sets = list(combinations(range(size), masks))
            mean = sum(float(nats(chosen)[list(chosen)].sum()) for chosen in sets) / len(sets)
            by_count += probability * mean / masks  # n / k times the mean over the row, of n tokens, at k from 1 to n
        orders = list(permutations(range(size)))
        for order in orders:
            steps = (float(nats(order[known:])[order[known]]) for known in range(size))
            by_order += probability * sum(steps) / len(orders)
    assert by_count == pytest.approx(by_order, abs=1e-12)
    assert by_count > toy.entropy


# Weights: those of a network without it can be loaded.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_without_the_convolution_load_and_it_is_zero(dtype: torch.dtype, tmp_path: Path) -> None:
    model = denoiser(KINDS["ddit"], time_conditioning=True).to(dtype)
    model.save_pretrained(tmp_path)
    config = tmp_path / "config.yml"
    config.write_text(config.read_text().replace("local_width: null", "local_width: 5"))
    local = load_model(tmp_path).eval()
    assert local.network.local.weight.dtype == dtype
    assert not local.network.local.weight.any()
    x = tokens(2, LENGTH)
    assert torch.equal(local.network(x, LEVEL), model.network(x, LEVEL))
    nn.init.normal_(local.network.local.weight)
    local.save_pretrained(tmp_path / "trained")
    again = load_model(tmp_path / "trained")
    assert torch.equal(again.network.local.weight, local.network.local.weight)


def test_weights_of_a_convolution_do_not_load_into_a_network_without(tmp_path: Path) -> None:
    build(backbone={**BACKBONE["ddit"], **LOCAL}).save_pretrained(tmp_path)
    config = tmp_path / "config.yml"
    config.write_text(config.read_text().replace("local_width: 5", "local_width: null"))
    with pytest.raises(CheckpointError, match=r"unexpected: network\.local\.weight"):
        load_model(tmp_path)


def test_adapters_leave_a_new_convolution_trainable() -> None:
    pytest.importorskip("peft")
    model = build(backbone={**BACKBONE["ddit"], **LOCAL})
    holder = nn.ModuleDict({"network": model})
    add_adapters(holder, LoraConfig(r=2))
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert "network.local.weight" in trained
    assert all("lora" in name or name == "network.local.weight" for name in trained)


# Sections of a file.


@pytest.mark.parametrize("kind", ["ddit", "performer", "bert"])
@pytest.mark.parametrize("width", [2, 1, 0, -5, 65, 64, True, 5.0, "wide"])
def test_widths_that_are_no_odd_number_from_3_to_63_are_refused(kind: str, width: Any) -> None:
    backbone = BACKBONE.get(kind, {"type": "bert", "hidden_size": 16, "num_layers": 1, "num_heads": 2})
    _, problems = read(section(backbone={**backbone, "local_width": width}))
    assert len(problems) == 1
    assert "model.backbone.local_width: " in problems[0]


@pytest.mark.parametrize("width", [3, 63])
def test_the_ends_of_the_range_are_accepted(width: int) -> None:
    assert read(section(backbone={**BACKBONE["ddit"], "local_width": width}))[1] == []


def test_the_shipped_config_has_it_and_the_published_network_is_one_option_away() -> None:
    file = Path(__file__).resolve().parents[2] / "configs" / "training" / "mdlm_wikitext2.yml"
    shipped, published = (
        create_model(parse_model_config(file, ("model.vocab_size=30", "model.length=16", *more)))
        for more in ((), ("model.backbone.local_width=null",))
    )
    assert shipped.network.local.weight.shape[-1] == 5
    assert set(shipped.state_dict()) - set(published.state_dict()) == {"network.local.weight"}


def test_blocks_refuse_it() -> None:
    _, problems = read(section(objective="bd3lm", backbone={**BACKBONE["ddit"], **LOCAL}))
    assert len(problems) == 1
    assert "model.backbone.local_width: objective bd3lm needs a network whose blocks read no later block" in problems[0]


# init: neighbours.


def first_attention(model: Any, x: Tensor) -> Tensor:
    """Return the attention weights [heads, L, L] of the first layer for x int [1, L]."""
    kept: list[Tensor] = []
    attention = model.network.layers[0].attention

    def keep(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        hidden, rotation = given[:2]
        shape = (*hidden.shape[:2], 3, module.num_heads, -1)
        q, k, _ = module.to_qkv(hidden).view(shape).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, rotation), rotate(k, rotation)
        kept.append((q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)[0])

    handle = attention.register_forward_pre_hook(keep)
    model.denoise(x, 0.5)
    handle.remove()
    return kept[0].detach()


@pytest.mark.parametrize(("width", "heads"), [(64, 2), (64, 1), (96, 3)])
def test_heads_begin_at_the_right_and_left_neighbour(width: int, heads: int) -> None:
    shape = {"type": "ddit", "d_model": width, "num_layers": 2, "num_heads": heads, "dropout": 0.0}
    model = build(backbone={**shape, "init": "neighbours"}, vocab_size=30).eval()
    weights = first_attention(model, tokens(1, 40, 30))
    for head, own in enumerate(weights):
        inside = range(2, 38)
        step = 1 if head % 2 == 0 else -1
        peak, beside = (sum(float(own[i, i + by * step]) for i in inside) / len(inside) for by in (1, 2))
        assert 0.3 < peak < 0.6
        assert beside < 0.7 * peak
    plain = build(backbone=shape, vocab_size=30).eval()
    assert float(first_attention(plain, tokens(1, 40, 30)).max()) < 0.2


def test_each_frequency_adds_its_strength_to_the_logit_of_the_neighbour() -> None:
    model = build(backbone={**BACKBONE["ddit"], "d_model": 32, "num_heads": 1, "init": "neighbours"})
    layer = model.network.layers[0]
    q, k, v = layer.attention.to_qkv.weight.detach().double().sum(1).view(3, 32)  # of a hidden state of ones
    taking_part = 6  # 10000^(-i / 16) > 0.05 for i up to 5
    assert float(k @ k) / 32**0.5 == pytest.approx(STRENGTH * taking_part, rel=1e-5)
    assert float(q @ q) == pytest.approx(float(k @ k), rel=1e-5)
    torch.testing.assert_close(v, torch.zeros(32).double(), atol=1e-5, rtol=0)
    assert torch.equal(layer.modulation.linear.bias[:32], torch.ones(32))
    assert not layer.modulation.linear.bias[32:].any()


def test_neighbours_add_no_weights_and_draw_no_numbers() -> None:
    plain, started = build(), build(backbone={**BACKBONE["ddit"], "init": "neighbours"})
    assert set(plain.state_dict()) == set(started.state_dict())
    same = {name for name, weight in plain.state_dict().items() if torch.equal(weight, started.state_dict()[name])}
    layers = plain.network.layers
    changed = {
        f"network.layers.{i}.{name}"
        for i in range(len(layers))
        for name in ("attention.to_qkv.weight", "modulation.linear.bias")
    }
    assert set(plain.state_dict()) - same == changed
    assert torch.equal(plain(tokens(2, LENGTH), seed=0).loss, started(tokens(2, LENGTH), seed=0).loss)
