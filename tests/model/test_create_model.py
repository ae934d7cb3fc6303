"""Misuse of `create_model` gets a TypeError that says what was given, what fits and what to do."""

from pathlib import Path
from typing import Any

import pytest

from model_factory import create_model, parse_config, parse_experiment
from model_factory.experiment.config import read_experiment

YAML = "model: {model_type: encoder, encoder: {d_model: 8, num_layers: 1, num_heads: 2, device: cpu}}\n"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda path: str(path), "the path '{path}'; write create_model(parse_experiment('{path}').model)"),
        (lambda path: path, "the path '{path}'; write create_model(parse_experiment('{path}').model)"),
        (lambda path: path.parent, "the folder '{parent}'; load_model('{parent}') rebuilds a saved model"),
        (lambda path: parse_experiment(path), "ExperimentConfig; pass its model"),
        (lambda path: read_experiment(path), "Experiment; pass its config.model"),
        (
            lambda path: parse_config(path),
            "a tuple; pass its first element, as in model, datasets = parse_config(path)",
        ),
        (
            lambda path: parse_experiment(path).model.config,  # type: ignore[union-attr]
            "EncoderConfig; wrap it: ModelConfig(model_type='encoder', config=...)",
        ),
        (
            lambda path: create_model(parse_experiment(path).model),  # type: ignore[arg-type]
            "PerformerEncoder; this model is built already: use it as it is",
        ),
        (lambda path: None, "None; the file has no section model; add one"),
        (lambda path: {"model_type": "encoder"}, "dict; parse_experiment(path).model reads one from a file"),
    ],
)
def test_create_model_says_what_fits(given: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "model.yml"
    path.write_text(YAML)
    with pytest.raises(TypeError) as caught:
        create_model(given(path))
    expected = words.format(path=path, parent=tmp_path)
    assert str(caught.value) == f"create_model takes a ModelConfig, and got {expected}"
