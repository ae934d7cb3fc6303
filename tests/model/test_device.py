"""Devices by name, and models built under fake tensors."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from model.device import DeviceError, available_devices, resolve_device
from model.model_factory import create_model
from model.model_types import EncoderConfig, ModelConfig
from tests.model import tiny

LACKING = next(
    name for name in ("mps", "xpu", "cuda") if not any(known.startswith(name) for known in available_devices())
)


def test_device_auto_prefers_the_accelerator():
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    assert resolve_device("auto").type == (accelerator.type if accelerator else "cpu")
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", [LACKING, "cuda:99"])
def test_device_missing_lists_the_available(name):
    config = ModelConfig(model_type="encoder", config=EncoderConfig(params=tiny.params(device=name)))
    with pytest.raises(DeviceError) as caught:
        create_model(config)
    assert f"{name!r} is not on this machine; available: cpu" in str(caught.value)


def test_device_of_a_built_model():
    name = available_devices()[-1]
    model = tiny.encoder(device=name, attention_type="linear")
    assert {tensor.device for tensor in model.state_dict().values()} == {torch.device(name)}


def count(model):
    return [(name, tuple(parameter.shape)) for name, parameter in model.named_parameters()]


@pytest.mark.parametrize("attention_type", ["softmax", "linear", "causal_linear"])
def test_fake_tensors_allocate_nothing(attention_type):
    build = tiny.encoder if attention_type == "linear" else tiny.seq2seq
    changes = {"attention_type": attention_type, "vocab_size": tiny.VOCAB, "qk_norm": True}
    with FakeTensorMode():
        fake = build(**changes)
        ids = torch.zeros(2, 5, dtype=torch.long)
        mask = torch.ones(2, 5, dtype=torch.bool)
        out = fake.train()(ids, mask) if build is tiny.encoder else fake.train()(ids, ids, mask, mask)
        assert out.shape == (2, 5, tiny.VOCAB)
    assert count(fake) == count(build(**changes))


def test_large_model_is_counted_without_memory():
    with FakeTensorMode():
        wide = tiny.PerformerEncoder(tiny.params(d_model=8192, num_heads=64, num_layers=4, attention_type="linear"))
    assert sum(parameter.numel() for parameter in wide.parameters()) > 1e9
