"""A dumped and loaded config is unchanged; a summary counts the parameters of a real build."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.activations import ActivationFunctions
from model.model_factory import create_model
from model.model_types import DecoderConfig, EncoderConfig, EncoderDecoderConfig, ModelConfig
from model.types import PerformerParams
from model_factory.experiment.config import ExperimentConfig, read_experiment
from model_factory.experiment.print_config import print_config
from model_factory.experiment.summary import summarise_model
from model_factory.experiment.training_types import GenerationConfig, TrainingConfig
from model_factory.yaml_config.dump import dump


@st.composite
def performer_params(draw: st.DrawFn, role: str, width: int) -> PerformerParams:
    num_heads = draw(st.sampled_from([1, 2, 4]))
    kinds = ["softmax", "causal_linear", *(["linear"] if role == "encoder" else [])]
    attention_type = draw(st.sampled_from(kinds))
    norm = draw(st.sampled_from([{}, {"use_rezero": True}, {"use_scalenorm": True}]))
    position = draw(st.sampled_from(["rotary", "absolute", "none"]))
    values: dict[str, Any] = {
        "d_model": width,
        "num_layers": draw(st.integers(1, 3)),
        "num_heads": num_heads,
        "device": draw(st.sampled_from(["auto", "cpu", "cuda:1"])),
        "d_ff": draw(st.integers(1, 4)),
        "dropout": draw(st.floats(0, 0.99)),
        "attention_type": attention_type,
        "activation": draw(st.sampled_from(list(ActivationFunctions))),
        "feature_redraw_interval": draw(st.none() | st.integers(1, 10**6)),
        "vocab_size": draw(st.none() | st.integers(1, 100)),
        "position": position,
        "max_length": draw(st.integers(300, 999)) if position == "absolute" else None,
        "qk_norm": draw(st.booleans()),
        "num_kv_heads": draw(st.sampled_from([None, 1, num_heads])),
        "tie_embeddings": draw(st.booleans()),
        **norm,
    }
    if attention_type != "softmax":
        values["nb_features"] = draw(st.none() | st.integers(1, 64))
    return PerformerParams(**values)


@st.composite
def model_configs(draw: st.DrawFn) -> ModelConfig:
    width = draw(st.sampled_from([8, 16]))
    kind = draw(st.sampled_from(["encoder", "decoder", "encoder_decoder"]))
    encoder, decoder = (draw(performer_params(role, width)) for role in ("encoder", "decoder"))
    config: Any = {
        "encoder": lambda: EncoderConfig(params=encoder),
        "decoder": lambda: DecoderConfig(params=decoder),
        "encoder_decoder": lambda: EncoderDecoderConfig(encoder_params=encoder, decoder_params=decoder),
    }[kind]()
    name = draw(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8))
    return ModelConfig(model_type=kind, name=name, config=config)


@st.composite
def experiments(draw: st.DrawFn) -> ExperimentConfig:
    training = TrainingConfig(learning_rate=draw(st.floats(1e-12, 10)), seed=draw(st.integers(0, 2**32 - 1)))
    generation = GenerationConfig(
        temperature=draw(st.just(0.0) | st.floats(1e-3, 100)), top_p=draw(st.none() | st.floats(1e-9, 1))
    )
    return ExperimentConfig(
        model=draw(model_configs()),
        training=draw(st.none() | st.just(training)),
        generation=draw(st.none() | st.just(generation)),
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(experiments())
def test_dump_and_load_round_trip(tmp_path: Path, config: ExperimentConfig) -> None:
    file = tmp_path / "case.yml"
    file.write_text(dump(config.to_dict()), encoding="utf-8")
    again = read_experiment(file)
    assert again.config == config
    file.write_text(print_config(again), encoding="utf-8")
    assert read_experiment(file).config == config


@settings(max_examples=12)
@given(model_configs())
def test_summary_equals_a_real_build(config: ModelConfig) -> None:
    on_cpu = {
        name: value.model_copy(update={"device": "cpu", "batch_size": 2}) for name, value in dict(config.config).items()
    }
    config = config.model_copy(update={"config": config.config.model_copy(update=on_cpu)})
    summary = summarise_model(ExperimentConfig(model=config))
    model = create_model(config)
    assert summary.total.parameters == sum(p.numel() for p in model.parameters())
    assert sum(part.parameters for part in summary.parts) == summary.total.parameters
    assert sum(part.forward_flops for part in summary.parts) == summary.total.forward_flops > 0
    assert summary.total.training_flops is not None
    assert summary.total.training_flops > 2 * summary.total.forward_flops


def test_flops_of_a_layer_are_its_matrix_products() -> None:
    params = PerformerParams(d_model=16, num_layers=1, num_heads=2, d_ff=4, device="cpu", batch_size=2, position="none")
    config = ModelConfig(model_type="encoder", config=EncoderConfig(params=params))
    summary = summarise_model(ExperimentConfig(model=config))
    tokens = 2 * 256
    parts = {part.name: part for part in summary.parts}
    assert parts["feed_forward"].forward_flops == 2 * tokens * (2 * 16 * 64)
    projections, products = 2 * tokens * 4 * 16 * 16, 2 * tokens * 2 * 256 * 16
    assert parts["self_attention"].forward_flops == projections + products


@pytest.mark.parametrize("text", ["training: {max_steps: 10}\n"])
def test_summary_needs_a_model(tmp_path: Path, text: str) -> None:
    (tmp_path / "case.yml").write_text(text)
    with pytest.raises(ValueError, match="needs a section 'model'"):
        summarise_model(read_experiment(tmp_path / "case.yml").config)
