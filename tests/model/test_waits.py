"""Training steps on a pretended accelerator: the host draws the noise, and the device is never waited for."""

from typing import Any

import pytest
import torch
from torch import nn

from model.discrete.model import DiffusionModel
from model.discrete.types import DiffusionConfig
from model.transformer.inputs import checked_ids
from model_factory.training.tasks.base import decoder_loss
from tests.model import tiny
from tests.model.test_head_loss import BACKBONES, LENGTH, OBJECTIVES, VOCAB, denoiser
from tests.support.own_process import in_own_process
from tests.support.pretend_device import DEVICE, PretendDevice

FORMS = [(objective, "ddit") for objective in OBJECTIVES] + [("mdlm", name) for name in BACKBONES if name != "ddit"]


def moved(values: Any) -> Any:
    """Return tensors on the device, uploaded without waiting, as a loader with pinned memory does."""
    if isinstance(values, dict):
        return {name: moved(value) for name, value in values.items()}
    if isinstance(values, list):
        return [moved(value) for value in values]
    return values.to(DEVICE, non_blocking=True) if isinstance(values, torch.Tensor) else values


@pytest.mark.parametrize(("objective", "backbone"), FORMS)
@in_own_process
def test_a_diffusion_step_never_waits(objective: str, backbone: str) -> None:
    with PretendDevice() as device:
        model = denoiser(objective, backbone)
        ids = torch.randint(VOCAB, (4, LENGTH))
        mask = tiny.lengths_mask([8, 8, 5, 1], LENGTH)
        drawn = model.drawer.draw(model.drawer.check(ids, mask, seed=1))
        model.to(DEVICE)
        given = moved({"ids": ids, "mask": mask, "drawn": drawn})
        device.clear()
        model(given["ids"], given["mask"], drawn=given["drawn"]).loss.backward()
        assert device.reads == device.uploads == 0, device.report()


def inserting(gaps: str) -> DiffusionModel:
    objective, network = {"type": "flexmdm", "gaps": gaps}, {**BACKBONES["ddit"], "dropout": 0.0, "device": "cpu"}
    section = {"objective": objective, "backbone": network, "vocab_size": VOCAB, "length": LENGTH}
    torch.manual_seed(0)
    model = DiffusionModel(DiffusionConfig.model_validate(section)).train()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("gaps", ["counts", "expected"])
@in_own_process
def test_a_step_of_insertions_never_waits(gaps: str) -> None:
    ids, mask = torch.randint(VOCAB, (4, LENGTH)), tiny.lengths_mask([8, 8, 5, 3], LENGTH)
    model = inserting(gaps)
    for weighting in ("bound", "uniform"):
        drawn = model.drawer.draw(model.drawer.check(ids, mask, seed=1), weighting)
        with torch.no_grad():
            wanted = model(ids, mask, seed=1, loss_weighting=weighting).loss
            assert torch.equal(model(ids, mask, drawn=drawn).loss, wanted)
    with PretendDevice() as device:
        model.to(DEVICE)
        given = moved({"ids": ids, "mask": mask, "drawn": drawn})
        device.clear()
        model(given["ids"], given["mask"], drawn=given["drawn"]).loss.backward()
        assert device.reads == device.uploads == 0, device.report()


@pytest.mark.parametrize("attention", ["softmax", "causal_linear"])
@in_own_process
def test_a_decoder_step_never_waits(attention: str) -> None:
    with PretendDevice() as device:
        model = tiny.decoder(vocab_size=tiny.VOCAB, attention_type=attention).train().to(DEVICE)
        ids = moved(torch.randint(tiny.VOCAB, (3, 9)))
        real = moved(tiny.lengths_mask([9, 4, 2], 9))
        device.clear()
        with checked_ids():
            decoder_loss(model, ids, real, lambda call: call(ids[:, :-1], mask=real[:, :-1])).backward()
        assert device.reads == device.uploads == 0, device.report()
