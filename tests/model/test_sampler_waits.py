"""Samplers on a pretended accelerator: at most one read a step, the samples of the CPU, and errors at the end."""

from typing import Any

import pytest
import torch
from torch import Tensor

from model_factory.diffusion.errors import ProbabilityError, gathered_checks, raise_if
from model_factory.diffusion.registry import SAMPLERS, fitting_samplers
from tests.model import tiny
from tests.model.test_head_loss import LENGTH, denoiser
from tests.support.own_process import in_own_process
from tests.support.pretend_device import DEVICE, PretendDevice

READING = {"confidence", "entropy_bounded"}
"""Samplers whose choice of positions depends on the network, so that the host reads it once a step."""
FIXED = {"first_hitting", "entropy_bounded"}
"""Samplers that ignore the number of steps; here a row has LENGTH of them at most."""
OBJECTIVES = {"mdlm": True, "sedd": True, "udlm": False, "sedd, uniform": False, "gidd": False}
CASES = [
    (objective, name) for objective, absorbing in OBJECTIVES.items() for name in fitting_samplers(absorbing=absorbing)
]
MASK = tiny.lengths_mask([LENGTH, LENGTH, 5], LENGTH)


def draw(model: Any, name: str, steps: int, prompt: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    mask = MASK.to(prompt.device)
    drawn: Tensor = model.sample(3, steps=steps, sampler=name, generator=generator, prompt=prompt, mask=mask)
    return drawn


@pytest.mark.parametrize(("objective", "name"), CASES)
@in_own_process
def test_sampler_waits_at_most_once_a_step(objective: str, name: str) -> None:
    model, prompt = denoiser(objective).eval(), torch.tensor([[1, 2]])
    wanted = [draw(model, name, steps, prompt) for steps in (3, 9)]
    with PretendDevice() as device:
        model.to(DEVICE)
        prompt = prompt.to(DEVICE)
        draw(model, name, 3, prompt)  # copies what is constant
        reads, found = [], []
        for steps in (3, 9):
            device.clear()
            found.append(draw(model, name, steps, prompt))
            reads.append(device.reads)
            assert device.uploads <= 1, device.report()
        found = [tokens.cpu() for tokens in found]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, wanted, strict=True))
    if name in FIXED:
        assert reads[1] <= 10 + (LENGTH if name in READING else 0), device.report()
    else:
        assert reads[1] - reads[0] <= (6 if name in READING else 0), device.report()
        assert reads[0] <= 12, device.report()


def test_every_sampler_is_counted() -> None:
    inserting = set(fitting_samplers(absorbing=True, variable_length=True))
    assert {name for _, name in CASES} == set(SAMPLERS.names()) - inserting


@pytest.mark.parametrize("name", ["ancestral", "ancestral_cache", "confidence"])
@in_own_process
def test_a_network_without_a_distribution_is_reported_at_the_end(name: str) -> None:
    with PretendDevice():
        model = denoiser("mdlm").eval()
        for parameter in model.parameters():
            parameter.data.fill_(torch.nan)
        model.to(DEVICE)
        with pytest.raises(ProbabilityError, match=r"probs: got .* on the device; expected a finite positive sum"):
            model.sample(2, steps=2, sampler=name, generator=torch.Generator().manual_seed(0))


def test_checks_of_the_cpu_are_not_gathered() -> None:
    with gathered_checks(), pytest.raises(ProbabilityError, match="probs: got 3; expected less"):
        raise_if(torch.tensor([False, True]), ProbabilityError, "probs", lambda: 3, "less")
