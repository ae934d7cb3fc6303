"""Rules of the pretended device, each once, and that tests in a process of their own report failures."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.own_process import in_own_process
from tests.support.pretend_device import DEVICE, DeviceMismatch, PretendDevice, PretendTensor


@torch.library.custom_op("tests_support::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    assert x.device == DEVICE
    assert x.flatten().tolist()
    return (x + x).mul_(1.0)


def costs_of(device: PretendDevice, work: Callable[[], Any]) -> tuple[int, int, int]:
    """Return reads, uploads and launches of a call."""
    device.clear()
    work()
    return device.reads, device.uploads, device.launch_count


def assign(x: Tensor, index: Any, value: Any) -> None:
    x[index] = value


@in_own_process
def test_reads_uploads_and_launches_of_each_kind() -> None:
    with PretendDevice() as device:
        x, mask = torch.randn(2, 3, device=DEVICE), torch.ones(2, 3, device=DEVICE) > 0
        index = torch.tensor([0, 1])
        cases: list[tuple[tuple[int, int, int], Callable[[], Any]]] = [
            # views and memory without contents
            ((0, 0, 0), lambda: x.view(6)[1:].unsqueeze(0).expand(4, 5).transpose(0, 1)),
            ((0, 0, 0), lambda: (torch.split(x, 1), x.chunk(2), x.unbind(), x.detach(), x.T.mT)),
            ((0, 0, 0), lambda: (torch.empty(4, device=DEVICE), torch.empty_like(x), x.new_empty(3))),
            # computation
            ((0, 0, 1), lambda: x + 1),
            ((0, 0, 1), lambda: torch.full((3,), 2.0, device=DEVICE)),
            ((0, 0, 1), lambda: x.T.contiguous()),
            ((0, 0, 1), lambda: x + torch.ones(())),
            ((0, 0, 1), lambda: torch.mul(x, x, out=torch.empty_like(x))),
            ((0, 0, 2), lambda: x.clone().masked_fill_(mask, 0.0)),
            ((0, 0, 1), lambda: torch.nonzero_static(mask, size=3)),
            # numbers that the host waits for
            ((1, 0, 1), lambda: x.sum().item()),
            ((1, 0, 1), lambda: float(x.sum())),
            ((1, 0, 2), lambda: bool((x > 9).any())),
            ((1, 0, 0), lambda: x.tolist()),
            ((1, 0, 0), lambda: repr(x)),
            ((1, 0, 1), lambda: f"{x.sum():.2f}"),
            ((1, 0, 1), lambda: torch.equal(x, x)),
            ((1, 0, 1), lambda: x.cpu()),
            ((1, 0, 1), lambda: x.to("cpu", torch.float64)),
            ((1, 0, 1), lambda: torch.empty(2, 3).copy_(x)),
            ((0, 0, 1), lambda: x.to("cpu", non_blocking=True)),
            # sizes that depend on values
            ((1, 0, 1), lambda: x[mask]),
            ((1, 0, 1), lambda: mask.nonzero()),
            ((1, 0, 1), lambda: x.masked_select(mask)),
            # assignment of numbers: fills of a slice or a mask, and an upload for one element
            ((0, 0, 1), lambda: assign(x, 0, 1.0)),
            ((0, 0, 1), lambda: assign(x, mask, 1.0)),
            ((0, 1, 1), lambda: assign(x, (0, 0), 1.0)),
            # uploads
            ((0, 1, 1), lambda: torch.ones(3).to(DEVICE)),
            ((0, 1, 1), lambda: x.copy_(torch.ones(2, 3))),
            ((0, 1, 1), lambda: torch.tensor([1.0, 2.0], device=DEVICE)),
            ((0, 1, 1), lambda: x.new_tensor([1, 2])),
            ((0, 1, 1), lambda: x[index]),
            ((0, 0, 1), lambda: torch.ones(3).pin_memory().to(DEVICE, non_blocking=True)),
            # the body of a custom operator
            ((1, 0, 2), lambda: twice(x)),
        ]
        for number, (wanted, work) in enumerate(cases):
            assert costs_of(device, work) == wanted, (number, wanted, device.report(), device.launches)


@in_own_process
def test_numbers_are_those_of_the_cpu() -> None:
    torch.manual_seed(0)
    twin = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.GELU(), torch.nn.Linear(4, 1))
    given = torch.randn(5, 3)
    with PretendDevice() as device:
        layer = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.GELU(), torch.nn.Linear(4, 1))
        layer.load_state_dict(twin.state_dict())
        layer = layer.to(DEVICE)
        x = given.to(DEVICE)
        device.clear()
        torch.autograd.backward(layer(x).square().sum())
        assert (device.reads, device.uploads) == (0, 0), device.report()
        assert device.launches["addmm.default"] == 2
        ours = [parameter.grad for parameter in layer.parameters()]
    torch.autograd.backward(twin(given).square().sum())
    for mine, parameter in zip(ours, twin.parameters(), strict=True):
        assert isinstance(mine, PretendTensor)
        assert mine.device == DEVICE
        assert parameter.grad is not None
        assert torch.equal(mine.held, parameter.grad)


@in_own_process
def test_other_devices_are_left_alone() -> None:
    with PretendDevice() as device:
        assert torch.ones(2, device="meta").device.type == "meta"
        assert torch.ones(2, device="cpu").device.type == "cpu"
        assert torch.ones(2, device=DEVICE).to("cpu").device.type == "cpu"
        assert device.launch_count == 2


@in_own_process
def test_waits_name_their_place_also_in_backward() -> None:
    class Reading(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 1

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * gradient.sum().item()

    with PretendDevice() as device:
        x = torch.ones(3, device=DEVICE).requires_grad_()
        applied: Tensor = Reading.apply(x)  # type: ignore[no-untyped-call]
        torch.autograd.backward(applied.sum())
        ((found, times),) = device.waits.items()
        assert times == 1
        assert found.startswith("_local_scalar_dense at tests/support/test_pretend_device.py:")
        assert any(key.startswith("sum.default at tests/support/test_") for key in device.launched_at)
        assert "1 reads, 0 blocking uploads" in device.report()


@in_own_process
def test_mix_ups_of_devices_are_refused() -> None:
    with PretendDevice():
        x, number = torch.randn(2, 3, device=DEVICE), torch.ones(())
        for wrong in (
            lambda: x + torch.ones(2, 3),
            lambda: torch.ones(2, 3) + x.sum(),
            lambda: torch.cat([x.flatten(), torch.ones(1)]),
            lambda: torch.stack([x.sum(), number]),
            lambda: torch.ones(4)[torch.zeros(1, dtype=torch.long, device=DEVICE)],
            lambda: assign(x, torch.tensor([0], device=DEVICE), torch.ones(3)),
            lambda: torch.rand(3, device=DEVICE, generator=torch.Generator()),
            lambda: x.normal_(generator=torch.Generator()),
            lambda: x.numpy(),
        ):
            with pytest.raises(DeviceMismatch):
                wrong()
        with pytest.raises(NotImplementedError, match="in place"):
            x.clone().unsqueeze_(0)
    with pytest.raises(RuntimeError, match="outside of the block"):
        x + 1
    assert not torch.accelerator.is_available()


@in_own_process
def test_a_process_with_an_earlier_backward_is_refused() -> None:
    torch.autograd.backward(torch.ones(1, requires_grad=True).sum())
    with pytest.raises(RuntimeError, match="in_own_process"):
        PretendDevice().__enter__()


@in_own_process
def failing(number: int) -> None:
    raise ValueError(f"number {number}")


def test_failure_in_the_other_process_is_reported() -> None:
    with pytest.raises(AssertionError, match="ValueError: number 7"):
        failing(number=7)
