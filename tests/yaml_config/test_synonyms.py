"""Names of other tools are answered with ours: every target is a key of the schema and has the unit of its description."""

import json
import re
from pathlib import Path

import pytest

from model_factory.experiment.config import read_experiment
from model_factory.experiment.json_schema import experiment_schema
from model_factory.yaml_config.errors import ConfigError
from model_factory.yaml_config.synonyms import SYNONYMS, find_synonym

MODEL = "model: {model_type: decoder, decoder: {d_model: 8, num_layers: 1, num_heads: 2}}"
DATA = "datasets: [{name: t, source: text, data_files: {train: a.txt}, tokenizer: {type: bytes}}]"


def descriptions() -> dict[str, list[str]]:
    """Return the descriptions of each key, wherever in the schema it is."""
    found: dict[str, list[str]] = {}

    def collect(node: object) -> None:
        if isinstance(node, dict):
            properties = node.get("properties", {})
            for key, value in properties.items() if isinstance(properties, dict) else ():
                found.setdefault(key, []).append(value.get("description", "") if isinstance(value, dict) else "")
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            collect(child)

    collect(experiment_schema())
    return found


def problems(text: str, tmp_path: Path) -> list[tuple[str, str, str | None]]:
    path = tmp_path / "case.yml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_experiment(path)
    return [(problem.path, problem.message, problem.suggestion) for problem in caught.value.problems]


def test_synonyms_name_existing_keys_with_their_units() -> None:
    known = descriptions()
    assert len(SYNONYMS) > 200
    for name, synonyms in SYNONYMS.items():
        for synonym in synonyms:
            if re.fullmatch(r"[\w.]+", synonym.target):
                assert synonym.key in known, (name, synonym.target)
                if synonym.unit:
                    assert any(f"[{synonym.unit}]" in text for text in known[synonym.key]), (name, synonym)


@pytest.mark.parametrize(
    ("section", "line", "expected"),
    [
        ("training", "lr: 0.1", "unknown key 'lr'; here it is learning_rate [1]"),
        ("training", "epochs: three", "unknown key 'epochs'; here it is num_train_epochs [epochs]"),
        ("training", "eval_strategy: steps", "unknown key 'eval_strategy'; here it is eval_steps [steps]"),
        ("training", "lora_r: 4", "unknown key 'lora_r'; here it is lora.r [rank]"),
        ("training", "output_dir: x", "unknown key 'output_dir'; here it is --output RUN: an option of the command"),
        ("training", "n_embd: 8", "unknown key 'n_embd'; here it is model.encoder.d_model [channels]"),
        ("generation", "num_steps: 4", "unknown key 'num_steps'; here it is steps [steps]"),
        ("generation", "max_length: 4", "unknown key 'max_length'; here it is max_new_tokens [tokens]"),
    ],
)
def test_name_of_another_tool_is_one_problem_with_our_key(section, line, expected, tmp_path: Path) -> None:
    [(path, message, suggestion)] = problems(f"{MODEL}\n{DATA}\n{section}: {{{line}}}\n", tmp_path)
    assert path == f"{section}.{line.partition(':')[0]}"
    assert message.startswith(expected)
    assert suggestion is not None
    assert suggestion in expected


def test_wrong_logger_is_one_problem(tmp_path: Path) -> None:
    [(path, message, suggestion)] = problems(f"{MODEL}\n{DATA}\ntraining: {{report_to: wandbx}}\n", tmp_path)
    assert (path, suggestion) == ("training.report_to", "wandb")
    assert "tensorboard, wandb" in message
    [(path, message, _)] = problems(f"{MODEL}\n{DATA}\ntraining: {{report_to: [wandbx]}}\n", tmp_path)
    assert path == "training.report_to.0"


def test_names_of_another_tool_fill_required_keys(tmp_path: Path) -> None:
    text = "model: {model_type: decoder, decoder: {n_embd: 8, n_layer: 1, n_head: 2, block_size: 16, n_vocab: 9}}"
    found = problems(text, tmp_path)
    assert [suggestion for *_, suggestion in found] == [
        "d_model",
        "num_layers",
        "num_heads",
        "max_length",
        "vocab_size",
    ]


def test_same_name_means_another_key_in_another_section() -> None:
    assert [find_synonym("max_length", section, keys)[1] for section, keys in CASES] == [  # type: ignore[index]
        "sequence_length",
        "max_new_tokens",
        "datasets.0.sequence_length",
        "datasets.2.sequence_length",
    ]


CASES = [
    ("datasets.1", ["sequence_length"]),
    ("generation", ["max_new_tokens"]),
    ("training", ["seed"]),
    ("datasets.2.loading", ["num_workers"]),
]


def test_root_keys_of_other_tools_name_the_network_of_the_file(tmp_path: Path) -> None:
    found = problems(f"{MODEL}\n{DATA}\nn_layer: 3\nseed: 1\ntrainer: {{}}\nbf16: true\ntop_k: 3\n", tmp_path)
    assert [(path, suggestion) for path, _, suggestion in found] == [
        ("n_layer", "model.decoder.num_layers"),
        ("seed", "training.seed"),
        ("trainer", "training"),
        ("bf16", "training.bf16"),
        ("top_k", "generation.top_k"),
    ]


def test_json_report_has_our_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from parse_args import main

    path = tmp_path / "case.yml"
    path.write_text(f"{MODEL}\n{DATA}\ntraining: {{lr: 0.1}}\n", encoding="utf-8")
    assert main(["--config", str(path), "--json"]) == 1
    [error] = json.loads(capsys.readouterr().out)["errors"]
    assert error["suggestion"] == "learning_rate"
    assert "[1]" in error["message"]


@pytest.mark.parametrize(("d_ff", "fix"), [(3072, "d_ff: 4"), (2048, "d_ff: 3 (a width of 2,304)"), (33, "d_ff: 1")])
def test_feed_forward_width_in_place_of_the_factor(d_ff: int, fix: str, tmp_path: Path) -> None:
    text = f"model: {{model_type: encoder, encoder: {{d_model: 768, num_layers: 1, num_heads: 2, vocab_size: 9, d_ff: {d_ff}}}}}"
    [(path, message, suggestion)] = problems(text, tmp_path)
    assert path == "model.encoder.d_ff"
    assert "is a factor" in message
    assert suggestion is not None
    assert suggestion.startswith(fix)


def test_a_run_with_a_large_factor_loads(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text(
        "model: {model_type: encoder, encoder: {d_model: 4, num_layers: 1, num_heads: 2, vocab_size: 9, d_ff: 40}}"
    )
    read_experiment(path, will_train=False)
    with pytest.raises(ConfigError, match="d_ff is a factor"):
        read_experiment(path)
