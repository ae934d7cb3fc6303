"""Checks of rows with responses against models and tasks: at the line of the key that names the responses."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor, nn

from model.registry import MODELS, register_model
from model_factory.experiment.task_registry import TASKS, register_task
from model_factory.training.errors import UnfitError
from model_factory.training.splits import select_task
from model_factory.training.tasks.base import Task
from model_factory.yaml_config.dump import dump
from model_factory.yaml_config.errors import ConfigError
from model_factory.yaml_config.strict_model import StrictModel
from parse_args import parse_experiment

STACK = {"d_model": 16, "num_layers": 1, "num_heads": 2, "device": "cpu"}
DECODER = {"model_type": "decoder", "decoder": STACK}
BACKBONE = {"type": "ddit", "d_model": 16, "num_layers": 1, "num_heads": 2, "device": "cpu"}
MDLM = {"model_type": "diffusion", "objective": {"type": "mdlm"}, "backbone": BACKBONE}
BD3LM = {**MDLM, "objective": {"type": "bd3lm", "block_size": 4}}
ENCODER = {"model_type": "encoder", "encoder": STACK}


class Nothing(StrictModel):
    """Section without keys."""


class Deaf(nn.Module):
    """Model that takes no mask of responses."""

    def __init__(self, section: Any) -> None:
        super().__init__()

    def forward(self, input_ids: Tensor, attention_mask: Any = None) -> Any:
        return SimpleNamespace(loss=input_ids.sum())


class Hearing(Deaf):
    """Model that takes one."""

    def forward(self, input_ids: Tensor, attention_mask: Any = None, response_mask: Any = None) -> Any:
        return SimpleNamespace(loss=input_ids.sum())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text('{"q": "a", "a": "b", "m": []}\n')
    return tmp_path


def problems(model: Any, training: Any = None, **more: Any) -> list[str]:
    entry = {"name": "a", "source": "json", "data_files": {"train": "a.jsonl"}, "tokenizer": {"type": "bytes"}}
    entry |= {"sequence_length": 16} | ({} if "messages" in more else {"template": "{q}\n{a:response}"}) | more
    sections = {"model": model, "datasets": [entry], "training": {"max_steps": 2, **(training or {})}}
    Path("case.yml").write_text(dump(sections))
    try:
        parse_experiment("case.yml")
    except ConfigError as error:
        return [f"{problem.path}: {problem.message}" for problem in error.problems]
    return []


@pytest.mark.parametrize("model", [DECODER, MDLM, BD3LM])
def test_models_that_learn_responses(here: Path, model: Any) -> None:
    assert problems(model) == []
    assert problems(model, messages="m") == []


def test_task_that_learns_all_tokens_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TASKS, "_entries", dict(TASKS._entries))
    register_task("own", columns=("input_ids",), model_types=("encoder",))(Task)
    [message] = problems(ENCODER)
    assert message.startswith("datasets.0.template: the task own learns all tokens, and the rows of data set 'a' name")
    [message] = problems(ENCODER, {"task": "own"}, messages="m")
    assert message.startswith("datasets.0.messages: the task own learns all tokens")
    columns = ["input_ids", "response_mask"]
    register_task("careful", columns=("input_ids",), model_types=("encoder",), responses=True)(Task)
    assert problems(ENCODER) == []
    config = parse_experiment("case.yml")
    assert select_task(config, columns) == "careful"
    TASKS._entries.pop("careful")
    with pytest.raises(
        UnfitError, match="no task trains a model of type encoder on rows with input_ids, response_mask"
    ):
        select_task(config, columns)


def test_encoder_is_refused_with_its_remedy(here: Path) -> None:
    [message] = problems(ENCODER)
    assert message.endswith("has texts with responses (input_ids, response_mask); try model_type: diffusion or decoder")


def test_custom_model_without_the_mask_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODELS, "_entries", dict(MODELS._entries))
    register_model("deaf", config=Nothing)(Deaf)
    register_model("hearing", config=Nothing)(Hearing)
    register_model("made", config=Nothing)(lambda section: Deaf(section))
    [message] = problems({"model_type": "deaf"})
    expected = "forward(input_ids, attention_mask) of the model deaf has no keyword response_mask"
    assert message.startswith("datasets.0.template: the responses alone are learnt, and " + expected)
    assert problems({"model_type": "hearing"}) == problems({"model_type": "made"}) == []


@pytest.mark.parametrize(
    ("model", "more", "message"),
    [
        (DECODER, {"fill": "end"}, "a decoder learns where a text ends from one end token"),
        (BD3LM, {"fill": "hidden"}, "a last block whose fill is hidden is given the number of its tokens"),
        (MDLM, {"fill": "end", "template": "{a:response} {q}"}, "text follows the last response"),
    ],
)
def test_fill_that_makes_no_sense(here: Path, model: Any, more: Any, message: str) -> None:
    [found] = problems(model, **more)
    assert found.startswith("datasets.0.fill: ")
    assert message in found


def test_canvas_longer_than_the_positions_is_refused(here: Path) -> None:
    short = {**MDLM, "backbone": {"type": "bert", "hidden_size": 16, "num_layers": 1, "num_heads": 2, "max_length": 12}}
    assert any("rows have up to 16 tokens, and the backbone reads at most 12" in found for found in problems(short))
