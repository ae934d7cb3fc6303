"""NaN check without waiting: fused AdamW skips the step on the device, and the run ends before anything is saved."""

from pathlib import Path

import pytest
import torch
from torch import nn

from model_factory.training.errors import NonFiniteError
from model_factory.training.nan_check import Gradients, NanCheck, gradient_norms, skips_steps
from tests.support.own_process import in_own_process
from tests.support.pretend_device import DEVICE, PretendDevice
from tests.training.runs import DECODER, experiment, losses, train

ROWS = torch.tensor([5, 9])


class Loop:
    """Training loop of a linear layer whose loss is multiplied by the step's factor, as the Trainer runs it."""

    def __init__(self, folder, **options):
        torch.manual_seed(0)
        self.layer = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
        groups = [{"params": list(self.layer[0].parameters())}, {"params": list(self.layer[1].parameters())}]
        self.optimiser = torch.optim.AdamW(groups, lr=0.1, weight_decay=0.5, **options)
        self.check, self.done = NanCheck(folder), 0

    def step(self, factor):
        self.layer.zero_grad()
        loss = self.layer(torch.ones(4, 3)).sum() * factor
        loss.backward()
        self.check.add(loss, ROWS)
        parameters = dict(self.layer.named_parameters())
        self.check(self.done + 1, Gradients(parameters, self.optimiser))
        self.optimiser.step()
        self.done += 1

    def state(self):
        moments = [value for state in self.optimiser.state.values() for value in state.values()]
        return [value.detach().clone() for value in (*self.layer.parameters(), *moments)]


def test_nan_step_changes_neither_weights_nor_moments(tmp_path):
    loop = Loop(tmp_path, fused=True)
    loop.step(1.0)
    loop.step(2.0)
    before = loop.state()
    loop.step(torch.nan)  # nothing is read yet
    assert loop.done == 3
    assert all(torch.equal(*pair) for pair in zip(loop.state(), before, strict=True))
    assert {int(state["step"]) for state in loop.optimiser.state.values()} == {2}
    with pytest.raises(
        NonFiniteError, match=r"the loss is not finite at step 3, in the rows 5, 9 of the training split"
    ):
        loop.step(1.0)
    assert all(torch.equal(*pair) for pair in zip(loop.state(), before, strict=True))


def test_nan_is_reported_before_logging_or_saving(tmp_path):
    loop = Loop(tmp_path, fused=True)
    loop.step(1.0)
    loop.check.settle()  # finite, so that nothing happens
    loop.optimiser.param_groups[0]["lr"] = 0.2
    loop.step(torch.inf)
    loop.optimiser.param_groups[0]["lr"] = 0.3  # the schedule has moved on
    with pytest.raises(NonFiniteError) as caught:
        loop.check.settle()
    words = "the gradient is not finite in 4 of 4 parameters: 0.weight, 0.bias, 1.weight, 1.bias; parameter group "
    assert words + "0 (weight_decay 0.5, lr 0.2) and 1 (weight_decay 0.5, lr 0.1). The optimiser step" in str(
        caught.value
    )


def test_other_optimisers_are_checked_before_their_step(tmp_path):
    loop = Loop(tmp_path, fused=False)
    loop.step(1.0)
    before = loop.state()
    with pytest.raises(NonFiniteError, match="the loss is not finite at step 2"):
        loop.step(torch.nan)
    assert loop.done == 1
    assert all(torch.equal(*pair) for pair in zip(loop.state(), before, strict=True))
    assert not skips_steps(torch.optim.SGD(loop.layer.parameters(), lr=0.1))


def test_overflow_of_the_norm_alone_is_told_apart(tmp_path):
    loop = Loop(tmp_path, fused=True)
    loop.step(5e18)  # four norms of some 1e19 each: their squares exceed float32
    with pytest.raises(NonFiniteError, match="the gradient norm is not finite at step 1; each gradient is finite"):
        loop.check.settle()


def test_norms_equal_those_of_pytorch_bit_for_bit():
    gradients = [torch.randn(3, 4), torch.randn(5), torch.randn(2, 2, 2)]
    norm = torch.linalg.vector_norm(gradient_norms(gradients))
    assert torch.equal(norm, torch.nn.utils.get_total_norm(gradients))
    assert float(torch.linalg.vector_norm(gradient_norms([]))) == 0.0


@in_own_process
def test_finite_steps_wait_for_the_check_of_the_step_before_alone():
    torch.__future__.set_swap_module_params_on_conversion(True)
    with PretendDevice() as device:
        layer = nn.Linear(3, 2).to(DEVICE)
        optimiser, check = torch.optim.AdamW(layer.parameters(), fused=True), NanCheck(Path("nowhere"))
        inputs, rows = torch.ones(4, 3, device=DEVICE), torch.tensor([5])
        for step in range(1, 5):
            layer.zero_grad()
            loss = layer(inputs).sum()
            loss.backward()
            device.clear()
            check.add(loss, rows)
            gradients = Gradients(dict(layer.named_parameters()), optimiser)
            check(step, gradients)
            nn.utils.clip_grads_with_norm_(layer.parameters(), 1.0, gradients.norm)
            optimiser.step()
            assert device.reads == (step > 1), device.report()
            assert device.uploads == 0, device.report()


@pytest.mark.parametrize("optimiser", ["adamw_torch_fused", "adamw_torch"])
def test_run_with_nan_loss_writes_no_row_and_no_checkpoint_of_it(optimiser, tmp_path):
    model = {"model_type": "decoder", "decoder": DECODER}
    path = experiment(tmp_path, model=model, task="nan_at_4", optim=optimiser, save_steps=2, logging_steps=3)
    log, run = tmp_path / "log", tmp_path / "run"
    given = ("--plugin", "tests.training.plugins", "--config", path, "--output", run)
    assert train(*given, log=log) == 4, log.read_text()
    assert "the loss is not finite at step 4, in the rows " in log.read_text()
    assert sorted(folder.name for folder in run.glob("checkpoint-*")) == ["checkpoint-2"]
    assert list(losses(run)) == [3]
