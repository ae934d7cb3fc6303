"""Public API of the model factory. Runs with pytest, and as a script: `python test_model_factory.py` of the checkout."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

import torch
from pydantic import ValidationError

from model.activations import ActivationFunctions
from model.model_factory import ModelFactory, create_model
from model.model_types import DecoderConfig, EncoderConfig, EncoderDecoderConfig, ModelConfig
from model.parse_model_args import parse_model_config
from model.types import PerformerParams


def params(**changes: object) -> PerformerParams:
    return PerformerParams(**{"d_model": 32, "num_layers": 2, "num_heads": 4, "device": torch.device("cpu"), **changes})


def test_model_types_in_order() -> None:
    assert ModelFactory.list_model_types()[:3] == ["encoder", "decoder", "encoder_decoder"]


def test_programmatic_use() -> None:
    encoder_params = PerformerParams(
        d_model=64,
        device=torch.device("cpu"),
        batch_size=32,
        num_layers=2,
        num_heads=8,
        d_ff=4,
        dropout=0.1,
        attention_type="linear",
        activation=ActivationFunctions.GEGLU,
    )
    config = ModelConfig(model_type="encoder", config=EncoderConfig(params=encoder_params), name="my_encoder")
    model = create_model(config)
    assert model(torch.randn(2, 10, 64)).shape == (2, 10, 64)
    assert EncoderConfig(params=encoder_params).to_dict()["activation"] == "GEGLU"


@pytest.mark.parametrize("name", ["encoder_model", "decoder_model", "example_model"])
def test_packaged_models_build_and_train_a_step(name: str) -> None:
    config = parse_model_config(
        ROOT / "configs" / f"{name}.yml",
        [f"model.{part}.{key}" for part in parts_of(name) for key in ("d_model=32", "device=cpu", "num_heads=4")],
    )
    model = create_model(config)
    stacks = [getattr(config.config, field) for field in type(config.config).model_fields]
    inputs = [torch.randint(9, (2, 12)) if stack.vocab_size else torch.randn(2, 12, stack.d_model) for stack in stacks]
    model(*inputs).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())


def parts_of(name: str) -> list[str]:
    return {"encoder_model": ["encoder"], "decoder_model": ["decoder"]}.get(name, ["encoder", "decoder"])


def test_each_factory_method() -> None:
    encoder = ModelFactory.create_encoder(EncoderConfig(params=params()))
    decoder = ModelFactory.create_decoder(DecoderConfig(params=params(attention_type="causal_linear")))
    both = ModelFactory.create_encoder_decoder(EncoderDecoderConfig(encoder_params=params(), decoder_params=params()))
    x = torch.randn(2, 6, 32)
    assert encoder(x).shape == decoder(x).shape == (2, 6, 32)
    assert both(x, x[:, :5]).shape == (2, 5, 32)


def test_any_case_of_an_activation() -> None:
    assert params(activation="swiglu").activation is ActivationFunctions.SWIGLU
    assert ActivationFunctions("geglu") is ActivationFunctions.GEGLU


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_heads": 5}, "num_heads 5 does not divide d_model 32"),
        ({"dropout": True}, "valid number"),
        ({"d_model": "32"}, "valid integer"),
        ({"hidden_size": 3}, "Extra inputs"),
        ({"use_rezero": True, "use_scalenorm": True}, "exclude each other"),
        ({"nb_features": 8}, "nb_features only goes with linear attention"),
    ],
)
def test_bad_parameters_are_refused_in_python_too(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        params(**changes)


def test_bidirectional_attention_in_a_decoder_is_refused() -> None:
    with pytest.raises(ValidationError, match="causal_linear"):
        DecoderConfig(params=params(attention_type="linear"))


def test_a_config_of_another_type_is_refused() -> None:
    with pytest.raises(ValidationError, match="takes a DecoderConfig, not a EncoderConfig"):
        ModelConfig(model_type="decoder", config=EncoderConfig(params=params()))
    with pytest.raises(ValidationError, match="did you mean 'decoder'"):
        ModelConfig(model_type="decodr", config=DecoderConfig(params=params()))


def test_token_ids_need_a_vocabulary() -> None:
    with pytest.raises(ValueError, match="vocab_size"):
        ModelFactory.create_encoder(EncoderConfig(params=params()))(torch.tensor([[1, 2]]))


def test_script_of_the_checkout_runs_these_tests() -> None:
    environment = {**os.environ, "PYTEST_ADDOPTS": "--collect-only"}
    command = [sys.executable, "test_model_factory.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert "tests/test_model_factory.py: " in done.stdout, done.stderr  # the number of its tests
    assert done.returncode == 0


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, "-q"]))
