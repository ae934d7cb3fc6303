"""The names of linear layers that the check of a file knows are those of the built model."""

from typing import Any

import pytest

from data_manager.tokenizers.simple import CharacterTokenizer
from model.parse_model_args import parse_model_config
from model_factory.experiment.config import ExperimentConfig
from model_factory.experiment.linear_layers import linear_layers
from model_factory.experiment.training_types import TrainingConfig
from model_factory.training.lora import find_linear_layers
from model_factory.training.network import Holder, build_network
from model_factory.yaml_config.dump import dump

STACK = {"d_model": 8, "num_layers": 1, "num_heads": 2, "device": "cpu"}
TOKENS = STACK | {"vocab_size": 20}
BERT = {"type": "bert", "hidden_size": 8, "num_layers": 1, "num_heads": 2, "device": "cpu"}
SOURCE = {"d_model": 8, "num_layers": 1, "num_heads": 2}
CLASSES = {"type": "class", "num_classes": 2}
PROPERTIES = {"type": "properties", "size": 2}
SECTIONS: list[tuple[str, dict[str, Any]]] = [
    ("language_modelling", {"model_type": "decoder", "decoder": TOKENS}),
    ("language_modelling", {"model_type": "decoder", "decoder": TOKENS | {"tie_embeddings": False}}),
    ("sequence_classification", {"model_type": "encoder", "encoder": TOKENS}),
    ("translation", {"model_type": "encoder_decoder", "encoder": TOKENS, "decoder": TOKENS}),
    *(
        ("diffusion", {"model_type": "diffusion", "objective": {"type": "mdlm"}, "vocab_size": 20, **more})
        for more in (
            {"backbone": {"type": "ddit", **STACK}},
            {"backbone": {"type": "performer", **STACK}},
            {"backbone": {"type": "performer", **STACK, "tie_embeddings": False}, "time_conditioning": True},
            {"backbone": {"type": "performer", **STACK}, "condition": PROPERTIES},
            {"backbone": {"type": "ddit", **STACK, "encoder": SOURCE}},
            {"backbone": {"type": "performer", **STACK, "encoder": SOURCE | {"d_model": 4}}},
            {"backbone": BERT},
            {"backbone": BERT | {"position": "absolute"}, "time_conditioning": True},
            {"backbone": BERT | {"time_injection": "input"}, "condition": CLASSES},
            {"backbone": BERT | {"time_injection": "output"}, "condition": PROPERTIES},
        )
    ),
    *(
        (
            "latent_diffusion",
            {
                "model_type": "latent_diffusion",
                "device": "cpu",
                "encoder": {"type": "performer", **TOKENS, "device": "auto"},
                "decoder": {"type": "performer", **TOKENS, "device": "auto", "routes": routes},
                "latent": {"size": 4},
                "denoiser": denoiser,
            },
        )
        for routes, denoiser in (
            (["embedding", "memory"], {"type": "mlp", "width": 8, "num_layers": 2}),
            (["cross_attention"], {"type": "linear"}),
            (["soft_prompt"], {"type": "residual"}),
            (["embedding"], {"type": "transformer", "d_model": 8, "num_tokens": 2, "num_layers": 1, "num_heads": 2}),
            (["memory"], {"type": "performer", "d_model": 8, "num_tokens": 2, "num_layers": 1, "num_heads": 2}),
        )
    ),
]


@pytest.mark.parametrize(("task", "section"), SECTIONS)
def test_linear_layers_are_those_of_the_model(task: str, section: dict[str, Any], tmp_path: Any) -> None:
    path = tmp_path / "model.yml"
    path.write_text(dump({"model": section}))
    config = parse_model_config(path)
    training = TrainingConfig(task=task, num_labels=2)
    network, _ = build_network(ExperimentConfig(model=config, training=training), CharacterTokenizer("abcdefgh"))
    found = {name.rpartition(".")[2] for name in find_linear_layers(Holder(network))}
    assert linear_layers(config, task) == found
