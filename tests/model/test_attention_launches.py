"""Linear attention on other devices than a CPU: launches, waits and results, on a pretended device."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from model.attention.chunked import plan
from model.attention.chunked.features import Kernel
from model.attention.chunked.op import linear_attention
from model.attention.cores import LinearCore
from tests.model import tiny
from tests.model.test_attention_core import MAPS, expected, linear_core, qkv
from tests.model.tiny import gap
from tests.support.own_process import in_own_process
from tests.support.pretend_device import DEVICE, PretendDevice, PretendTensor

FORWARD, BACKWARD = 90, 150
"""Launches of causal attention, at any length."""


def held(x: Any) -> Tensor:
    assert isinstance(x, PretendTensor)
    return x.held


def leaves(inputs: list[Tensor], device: torch.device) -> list[Tensor]:
    return [x.to(device).detach().requires_grad_() for x in inputs]


def run(core: LinearCore, inputs: list[Tensor], weight: Tensor, **given: Any) -> tuple[Tensor, list[Tensor]]:
    """Return the output and the gradients of its weighted sum."""
    out = core(*inputs, **given)
    return out, list(torch.autograd.grad((out * weight.to(out.device)).sum(), inputs))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def holes(batch: int, keys: int) -> Tensor:
    """Return a mask [B, M] with padding before, after and between keys; its last row has no key."""
    mask = torch.rand(batch, keys, generator=torch.Generator().manual_seed(1)) > 0.3
    mask[0, : keys // 2], mask[:, -2:], mask[-1] = False, False, False
    return mask


def gap_of_all(found: Iterable[Tensor], wanted: Iterable[Tensor]) -> float:
    """Compare gradients together: those of q alone may be nothing but rounding, as where it sees one key."""
    mine, other = (torch.cat([x.flatten() for x in parts]) for parts in (found, wanted))
    return gap(mine, other)


def assert_equal_to_cpu(core_name: str, inputs: list[Tensor], *, causal: bool, mask: Tensor | None = None) -> None:
    """Compare outputs and gradients with those of the loop, and with the float64 oracle."""
    core, twin = linear_core(core_name), linear_core(core_name).to(DEVICE)
    weight = normal(*inputs[0].shape[:3], inputs[2].shape[-1], seed=5)
    key_mask = None if mask is None else mask.to(DEVICE)
    out, gradients = run(twin, leaves(inputs, DEVICE), weight, key_mask=key_mask, causal=causal)
    cpu = leaves(inputs, torch.device("cpu"))
    wanted, of_loop = run(core, cpu, weight, key_mask=mask, causal=causal)
    exact = expected(core, *inputs, key_mask=mask, causal=causal)
    assert gap(held(out.detach()), wanted) < 1e-6
    assert gap(held(out.detach()), exact) < 3e-6
    assert gap_of_all(map(held, gradients), of_loop) < 1e-6


@in_own_process
def test_launches_do_not_depend_on_the_length() -> None:
    with PretendDevice() as device:
        found = {}
        for rows, tokens in ((1, 1024), (1, 8192), (1, 65_536), (16, 1024), (64, 128)):
            core = linear_core("favor+", 4, 8).to(DEVICE)
            inputs = [normal(rows, 2, tokens, 4, seed=seed).to(DEVICE).requires_grad_() for seed in range(3)]
            device.clear()
            out = core(*inputs, causal=True)
            forward = device.launch_count
            total = out.sum()
            device.clear()
            total.backward()
            found[rows, tokens] = forward, device.launch_count
            assert (device.reads, device.uploads) == (0, 0), device.report()
        assert found[1, 1024] == found[1, 8192] == found[1, 65_536], found
        assert found[16, 1024] == found[64, 128], found  # several rows: heads that lie apart are copied together
        assert all(forward <= FORWARD and backward <= BACKWARD for forward, backward in found.values())


@pytest.mark.parametrize("name", MAPS)
@in_own_process
def test_no_wait_and_few_launches_with_masks_and_odd_lengths(name: str) -> None:
    with PretendDevice() as device:
        for causal in (True, False):
            assert_few_launches(device, name, causal=causal)


def assert_few_launches(device: PretendDevice, name: str, *, causal: bool) -> None:
    core = linear_core(name).to(DEVICE)
    kernel = _launches(device, core.features.kernel)
    found = set()
    for tokens in (1000, 4001):
        inputs = [normal(2, 2, tokens, 8, seed=seed).to(DEVICE).requires_grad_() for seed in range(3)]
        mask = holes(2, tokens).to(DEVICE)
        device.clear()
        out = core(*inputs, key_mask=mask, causal=causal)
        forward = device.launch_count - kernel
        total = out.sum()
        assert (device.reads, device.uploads) == (0, 0), device.report()
        device.clear()
        total.backward()
        found.add((forward, device.launch_count))
        assert (device.reads, device.uploads) == (0, 0), device.report()
    assert len(found) == 1, found
    forward, backward = found.pop()
    assert forward <= FORWARD
    assert backward <= BACKWARD


def _launches(device: PretendDevice, work: Any) -> int:
    device.clear()
    work()
    return device.launch_count


@pytest.mark.parametrize("name", MAPS)
@in_own_process
def test_results_equal_those_of_a_cpu(name: str) -> None:
    with PretendDevice():
        for causal in (True, False):
            for tokens in (1, 50, 65, 300):
                inputs = qkv(tokens, tokens)
                assert_equal_to_cpu(name, inputs, causal=causal)
                assert_equal_to_cpu(name, inputs, causal=causal, mask=holes(2, tokens))
        for queries, keys in ((5, 150), (150, 5)):
            assert_equal_to_cpu(name, qkv(queries, keys), causal=False, mask=holes(2, keys))


@pytest.mark.parametrize("at_once", [1, 3, 8])
@in_own_process
def test_results_do_not_depend_on_the_groups(at_once: int) -> None:
    """Groups of a few chunks, which have other spans, and blocks of some batch rows."""
    plan.GROUP_BYTES = at_once * 3 * 4 * plan.CHUNK**2
    assert plan.chunks_at_once("cuda", 24, 8, torch.float32) == at_once
    inputs = [normal(3, 450, 2, 8, seed=seed).transpose(1, 2) for seed in range(3)]  # as in MultiHeadAttention
    with PretendDevice():
        for causal in (True, False):
            assert_equal_to_cpu("favor#", inputs, causal=causal, mask=holes(3, 450))


@in_own_process
def test_wide_and_half_inputs_on_a_device() -> None:
    with PretendDevice():
        for dtype, bound in ((torch.float64, 1e-13), (torch.bfloat16, 1e-3)):
            core, twin = linear_core("favor+").to(dtype), linear_core("favor+").to(dtype).to(DEVICE)
            inputs = [x.to(dtype) for x in qkv(200, 200)]
            for causal in (True, False):
                out = twin(*(x.to(DEVICE) for x in inputs), causal=causal)
                assert out.dtype == dtype
                wanted = core(*inputs, causal=causal)
                assert gap(held(out), wanted) < bound


@pytest.mark.parametrize("kind", ["relu", "identity", "exp"])
@in_own_process
def test_log_scales_on_a_device(kind: str) -> None:
    weight = None if kind == "identity" else normal(1, 6, 4)
    inputs = [normal(2, 2, 150, size, seed=size).abs() + 0.1 for size in (4, 4, 3)]
    scale = 3 * normal(2, 2, 150, seed=9)
    with PretendDevice():
        for causal in (True, False):
            found = []
            for device in (DEVICE, torch.device("cpu")):
                kernel = Kernel(kind, *[None if weight is None else weight.to(device)] * 2)
                given = leaves([*inputs, scale], device)
                out = linear_attention(*given[:3], kernel, log_scale=given[3], causal=causal)
                gradients = torch.autograd.grad(out.square().sum(), given)
                found.append([x if device.type == "cpu" else held(x) for x in (out.detach(), *gradients)])
            assert gap(found[0][0], found[1][0]) < 1e-6
            assert gap_of_all(found[0][1:], found[1][1:]) < 1e-6


@in_own_process
def test_no_future_key_reaches_an_earlier_row_on_a_device() -> None:
    q, k, v = qkv(300, 300)
    with PretendDevice():
        core = linear_core("favor+").to(DEVICE)
        before = held(core(*(x.to(DEVICE) for x in (q, k, v)), causal=True))
        for factor in (0.0, 100.0, 1e12):
            k, v = k.clone(), v.clone()
            k[:, :, 290:] *= factor
            v[:, :, 290:] *= factor
            after = held(core(*(x.to(DEVICE) for x in (q, k, v)), causal=True))
            assert torch.equal(after[:, :, :290], before[:, :, :290])


@pytest.mark.parametrize("std", [10.0, 40.0])
@in_own_process
def test_bidirectional_denominators_never_underflow_on_a_device(std: float) -> None:
    """At 40 the loop needs float64, and the form of devices none: its denominators are at least 1."""
    with PretendDevice():
        inputs, core = qkv(140, 140, std=std), linear_core("favor+")
        mask = tiny.lengths_mask([140, 97], 140)
        weight = normal(2, 2, 140, 8)
        out, gradients = run(
            linear_core("favor+").to(DEVICE), leaves(inputs, DEVICE), weight, key_mask=mask.to(DEVICE), causal=False
        )
        cpu = leaves(inputs, torch.device("cpu"))
        reference = expected(core, *cpu, key_mask=mask, causal=False)
        wanted = torch.autograd.grad((reference * weight).sum(), cpu)
        assert gap(held(out.detach()), reference) < 1e-5
        assert max(gap(held(mine), other) for mine, other in zip(gradients, wanted, strict=True)) < 3e-4


@pytest.mark.parametrize("std", [8.0, 40.0])
@in_own_process
def test_causal_rows_that_underflow_on_a_device_are_finite(std: float) -> None:
    """At 8 all rows are as on a CPU; at 40 float32 loses rows, whose outputs and gradients stay bounded."""
    with PretendDevice():
        inputs = qkv(140, 140, std=std)
        twin = linear_core("favor+").to(DEVICE)
        out, gradients = run(twin, leaves(inputs, DEVICE), 100 * normal(2, 2, 140, 8), causal=True)
        largest = inputs[2].abs().amax()
        assert all(bool(held(x).isfinite().all()) for x in (out.detach(), *gradients))
        assert float(held(out.detach()).abs().max()) <= 1.01 * float(largest)
        if std == 8.0:
            assert_equal_to_cpu("favor+", inputs, causal=True)


@pytest.mark.parametrize("causal", [False, True])
@in_own_process
def test_fake_layout_is_that_of_a_device(causal: bool) -> None:
    """torch.compile plans by the layout of tensors on the meta device."""

    def layouts(device: torch.device, tokens: int) -> list[tuple[Any, ...]]:
        q, k, v = (torch.ones(2, 30, tokens, size, device=device) for size in (4, 4, 3))
        weight = torch.ones(1, 6, 4, device=device)
        call = (q, k, v, None, None, weight, weight, None, None, "exp", causal)
        outputs = torch.ops.model_factory.linear_attention(*call, True)
        made = [*outputs, *torch.ops.model_factory.linear_attention_backward(outputs[0], list(outputs), *call)]
        return [(tuple(one.shape), one.dtype, one.stride()) for one in made]

    plan.GROUP_BYTES = 2**24
    with PretendDevice():
        for tokens in (50, 140, 2048):
            assert layouts(DEVICE, tokens) == layouts(torch.device("meta"), tokens)


STACKS = [("encoder", "linear"), ("decoder", "causal_linear")]


@pytest.mark.parametrize("feature_map", MAPS)
@pytest.mark.parametrize(("kind", "attention"), STACKS)
@in_own_process
def test_training_steps_of_a_performer_do_not_wait(kind: str, attention: str, feature_map: str) -> None:
    """Also in the first step after a move, in steps that draw features anew, and with padding."""
    changes = {"attention_type": attention, "feature_map": feature_map, "feature_redraw_interval": 2}
    model, twin = (getattr(tiny, kind)(**changes).train() for _ in range(2))
    twin.load_state_dict(model.state_dict())
    x, mask, weight = normal(2, 150, 16), tiny.lengths_mask([150, 97], 150), normal(2, 150, 16, seed=1)
    with PretendDevice() as device:
        model = model.to(DEVICE)
        given, seen, weights = (part.to(DEVICE) for part in (x, mask, weight))
        for _ in range(5):
            device.clear()
            (model(given, mask=seen) * weights).sum().backward()
            assert (device.reads, device.uploads) == (0, 0), device.report()
            (twin(x, mask=mask) * weight).sum().backward()
        for name, value in twin.state_dict().items():
            torch.testing.assert_close(held(model.state_dict()[name]), value, rtol=1e-4, atol=1e-6)
        for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
            assert gap(held(mine.grad), other.grad) < 1e-5


@in_own_process
def test_redraws_on_a_device_follow_a_loaded_state() -> None:
    """A checkpoint's count of steps is read once, and then known to the host again."""
    model, other = (tiny.decoder(attention_type="causal_linear", feature_redraw_interval=3).train() for _ in range(2))
    x = normal(1, 5, 16)
    other(x), other(x)
    with PretendDevice() as device:
        model = model.to(DEVICE)
        model(x.to(DEVICE))
        model.load_state_dict(other.state_dict())
        given = x.to(DEVICE)
        reads = []
        for _ in range(4):
            device.clear()
            model(given), other(x)
            reads.append(device.reads)
            for name, value in other.state_dict().items():
                torch.testing.assert_close(held(model.state_dict()[name]), value)
        assert reads == [1, 0, 0, 0]
