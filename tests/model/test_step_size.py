"""A training step on a device: few launches, no hashing, and float64 for small tensors alone."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from model.discrete.model import DiffusionModel
from model.discrete.types import DiffusionConfig
from tests.model import tiny
from tests.model.test_head_loss import BACKBONES, LENGTH, OBJECTIVES, VOCAB
from tests.model.test_waits import moved
from tests.support.own_process import in_own_process
from tests.support.pretend_device import DEVICE, PretendDevice

LAYERS, LAUNCHES = 3, 450
LARGE, ROWS = 5000, 4  # the embedding of the noise level has 256 numbers a row


def build(objective: str, vocabulary: int, layers: int) -> Any:
    network = {**BACKBONES["ddit"], "num_layers": layers, "device": "cpu"}
    section = {**OBJECTIVES[objective], "backbone": network, "vocab_size": vocabulary, "length": LENGTH}
    return DiffusionModel(DiffusionConfig.model_validate(section)).train()


class Wide(TorchDispatchMode):
    """Record of the most numbers of a float64 tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers, self.name = 0, ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, list | tuple) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64 and tensor.numel() > self.numbers:
                self.numbers, self.name = tensor.numel(), str(func)
        return out


@in_own_process
def test_a_step_of_mdlm_has_few_launches_and_no_hashing() -> None:
    with PretendDevice() as device:
        model = build("mdlm", VOCAB, LAYERS)
        ids, mask = torch.randint(VOCAB, (ROWS, LENGTH)), tiny.lengths_mask([8, 8, 5, 1], LENGTH)
        given = {"ids": ids, "mask": mask, "drawn": model.drawer.draw(model.drawer.check(ids, mask, seed=1))}
        model.to(DEVICE)
        given = moved(given)
        device.clear()
        model(given["ids"], given["mask"], drawn=given["drawn"]).loss.backward()
        assert 0 < device.launch_count <= LAUNCHES, device.report()
        assert not [name for name in device.launches if "shift" in name or "xor" in name]  # SplitMix64


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_float64_is_kept_for_small_tensors(objective: str) -> None:
    model, ids = build(objective, LARGE, 1), torch.randint(LARGE, (ROWS, LENGTH))
    with Wide() as wide:
        model(ids, seed=1).loss.backward()
    assert 0 < wide.numbers < ROWS * LENGTH * LARGE / 100, wide.name
