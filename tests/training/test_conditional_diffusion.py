"""Task conditional_diffusion: canvases, rows of source and canvas, loss of any split, and targets of any batch."""

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data_manager.data_manager import DatasetManager
from data_manager.rows.collate import pad_rows
from model.registry import MODELS, register_model
from model_factory.cli.evaluate import main as evaluate
from model_factory.cli.generate import main as generate
from model_factory.diffusion.randomness import RowGenerators
from model_factory.experiment.build import with_vocabulary
from model_factory.experiment.config import ExperimentConfig, read_experiment
from model_factory.training.engine import add_default_sections
from model_factory.training.errors import UnfitError
from model_factory.training.network import build_network
from model_factory.training.noise import RowNoise
from model_factory.training.tasks.base import TaskSetting
from model_factory.training.tasks.conditional_diffusion import ConditionalDiffusion, fill_canvas, join
from model_factory.yaml_config.strict_model import StrictModel
from parse_args import main as check
from tests.support.own_process import in_own_process
from tests.support.pretend_device import DEVICE, PretendDevice
from tests.training.runs import experiment, seq2seq, text, train

DDIT = {"type": "ddit", "d_model": 16, "num_layers": 2, "num_heads": 2, "dropout": 0.0, "device": "cpu"}
PERFORMER = {**DDIT, "type": "performer", "attention_type": "linear"}
OWN = {"d_model": 16, "num_layers": 1, "num_heads": 2, "dropout": 0.0}
CANVAS = 7
WAYS: dict[str, dict[str, Any]] = {
    "mdlm": {"objective": {"type": "mdlm"}, "backbone": DDIT},
    "linear": {"objective": {"type": "mdlm"}, "backbone": PERFORMER},
    "uniform": {"objective": {"type": "udlm"}, "process": {"type": "uniform"}, "backbone": DDIT},
    "encoder": {"objective": {"type": "mdlm"}, "backbone": {**DDIT, "encoder": OWN}},
    "linear encoder": {"objective": {"type": "mdlm"}, "backbone": {**PERFORMER, "encoder": OWN}},
    "blocks": {"objective": {"type": "bd3lm", "block_size": 3}, "backbone": DDIT},
}
SOURCES = [[1, 5, 6, 7, 8, 2], [1, 5, 2], [1, 9, 8, 7, 6, 2], [1, 2]]
TARGETS = [[1, 8, 7, 6, 5, 2], [1, 5, 2], [1, 2], [1, 9, 9, 9, 9, 9, 2]]


def pairs_of_letters(folder: Path) -> dict[str, Any]:
    """Write pairs of ten letters, and return their data set."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in "ab":
        (folder / name).write_text("abcdefghij\nab\nba\n"[:: 1 if name == "a" else -1].strip() + "\n")
    pair = {"source": str(folder / "a"), "target": str(folder / "b")}
    data = text("pairs", {"train": pair}, tokenizer={"type": "characters"})
    return {**data, "sequence_length": CANVAS, "too_long": "cut"}


def read_config(path: Path, way: str) -> ExperimentConfig:
    """Write and read a file that trains a model on pairs."""
    model = {"model_type": "diffusion", **WAYS[way]}
    settings = {"task": "conditional_diffusion", "dataset": "pairs"}
    experiment(path.parent, model=model, datasets=[pairs_of_letters(path.parent)], **settings)
    return with_vocabulary(add_default_sections(read_experiment(path.parent / "experiment.yml").config))


def build(folder: Path, way: str) -> tuple[nn.Module, ConditionalDiffusion]:
    """Build a model with random output layers, whose zeros would hide the effect of inputs, and its task."""
    config = read_config(folder / "experiment.yml", way)
    assert config.datasets is not None
    torch.manual_seed(0)
    network, task = build_network(config, DatasetManager.tokenizer(config.datasets[0]))
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.2)
    assert isinstance(task, ConditionalDiffusion)
    return network, task


def batch(rows: slice = slice(None)) -> dict[str, Any]:
    """Return pairs of unequal lengths, with the noise of their places among all of them."""
    found: dict[str, Any] = {}
    for side, ids in (("source", SOURCES), ("target", TARGETS)):
        found[f"{side}_ids"], found[f"{side}_mask"] = pad_rows(ids[rows], 0)
    place = torch.arange(len(SOURCES))[rows]
    return found | {"noise": RowNoise(0, 0, place, place, len(SOURCES))}


def test_canvas_holds_target_and_ends(tmp_path: Path) -> None:
    _, task = build(tmp_path, "mdlm")
    end = task.tokenizer.eos_token_id
    begin = task.tokenizer.bos_token_id
    ids, real = pad_rows([[begin, 8, 9, end], [begin, end]], 0)
    assert fill_canvas(ids, real, 5, task.tokenizer).tolist() == [[8, 9, end, end, end], [end] * 5]
    assert fill_canvas(ids, real, 3, task.tokenizer).tolist() == [[8, 9, end], [end] * 3]
    with pytest.raises(UnfitError, match="a target has 3 tokens, and its canvas 2"):
        fill_canvas(ids, real, 2, task.tokenizer)


def test_rows_keep_sources_and_place_canvases() -> None:
    source, mask = pad_rows([[5, 6, 7], [8]], 0)
    canvas = torch.tensor([[1, 2], [3, 4]])
    rows = join(source, mask, canvas)
    assert rows.input_ids.tolist() == [[5, 6, 7, 1, 2], [8, 3, 4, 0, 0]]
    assert rows.attention_mask.tolist() == [[True] * 5, [True] * 3 + [False] * 2]
    assert rows.response_mask.tolist() == [[False] * 3 + [True] * 2, [False, True, True, False, False]]
    aligned = join(source, mask, canvas, start=2)
    assert aligned.input_ids.tolist() == [[0, 5, 6, 7, 1, 2], [0, 0, 0, 8, 3, 4]]
    assert aligned.attention_mask.sum(1).tolist() == [5, 3]
    assert join(source, mask, canvas, least=8).input_ids.shape == (2, 8)


@pytest.mark.parametrize("way", WAYS)
def test_loss_is_a_mean_over_canvases_of_any_split(way: str, tmp_path: Path) -> None:
    network, task = build(tmp_path, way)
    for training in (True, False):
        network.train(training)
        whole = task(network, batch())["loss"]
        parts = [task(network, batch(rows))["loss"] for rows in (slice(0, 1), slice(1, 4))]
        torch.testing.assert_close((parts[0] + 3 * parts[1]) / 4, whole, rtol=1e-5, atol=1e-6)
    assert task.weight(batch()) == 4 * CANVAS


@pytest.mark.parametrize("way", WAYS)
def test_the_loader_draws_the_same_noise(way: str, tmp_path: Path) -> None:
    network, task = build(tmp_path, way)
    draw = task.host_draw(network)
    assert draw is not None
    wanted = task(network.train(), batch())["loss"]
    given = batch()
    found = task(network, {**given, "drawn": draw(given)})["loss"]
    assert torch.equal(found, wanted)
    given["target_ids"] = given["target_ids"].repeat(1, 2)
    given["target_mask"] = torch.ones_like(given["target_ids"], dtype=torch.bool)
    with pytest.raises(UnfitError, match="and its canvas 7"):
        draw(given)


def moved(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: moved(value) for name, value in values.items()}
    if isinstance(values, list):
        return [moved(value) for value in values]
    return values.to(DEVICE, non_blocking=True) if isinstance(values, Tensor) else values


@pytest.mark.parametrize("way", WAYS)
@in_own_process
def test_a_step_never_waits(way: str) -> None:
    with TemporaryDirectory() as folder, PretendDevice() as device:
        network, task = build(Path(folder), way)
        draw, given = task.host_draw(network), batch()
        assert draw is not None
        given["drawn"] = draw(given)
        network.to(DEVICE).train()
        given = moved(given)
        device.clear()
        task(network, given)["loss"].backward()
        assert device.reads == device.uploads == 0, device.report()


@pytest.mark.parametrize("way", WAYS)
def test_a_target_depends_on_its_source_alone(way: str, tmp_path: Path) -> None:
    network, task = build(tmp_path, way)
    samplers = ("semi_autoregressive",) if way == "blocks" else ("ancestral", "semi_autoregressive")
    for sampler in samplers if way != "uniform" else ("ancestral",):
        settings = task.setting.generation.model_copy(update={"sampler": sampler, "steps": 5, "temperature": 1.0})
        streams = RowGenerators.from_seed(3, torch.arange(4))
        together = task.draw(network, SOURCES, settings, streams).tokens
        assert len({tuple(tokens) for tokens in together}) > 1
        for row in range(4):
            alone = task.draw(network, SOURCES[row : row + 1], settings, streams[row : row + 1]).tokens
            assert alone == together[row : row + 1]


@pytest.mark.parametrize("way", ["mdlm", "blocks"])
def test_samplers_keep_sources_and_write_canvases(way: str, tmp_path: Path) -> None:
    network, task = build(tmp_path, way)
    shown: list[Tensor] = []
    draw = network.draw

    def record(*given: Any, **options: Any) -> Any:
        state = draw(*given, **options)
        kept = options["frozen"] & options["mask"]
        assert torch.equal(state.tokens[kept], options["prompt"][kept])
        shown.append(state.tokens)
        return state

    network.draw = record  # type: ignore[assignment]
    found = task.draw(network, SOURCES, task.setting.generation)
    assert len(shown) == 1
    assert all(len(tokens) <= CANVAS for tokens in found.tokens)
    assert all(task.tokenizer.eos_token_id not in tokens for tokens in found.tokens)


def test_samples_show_source_reference_and_translation(tmp_path: Path) -> None:
    network, task = build(tmp_path, "mdlm")
    texts = task.samples(network.eval(), batch(), torch.Generator().manual_seed(0))
    assert [text.count("\n") for text in texts] == [2] * 4
    decode = task.tokenizer.decode
    assert texts[0].splitlines()[:2] == [decode(SOURCES[0]), decode(TARGETS[0])]


@pytest.mark.parametrize("way", ["mdlm", "linear encoder"])
def test_pairs_are_accepted_trained_measured_and_translated(
    way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = {"model_type": "diffusion", **WAYS[way], "source_dropout": 0.2}
    pairs = seq2seq(tmp_path)["datasets"][0] | {"sequence_length": 20, "too_long": "cut"}
    path = experiment(tmp_path, model=model, datasets=[pairs], max_steps=3)
    assert check(["--config", str(path)]) == 0
    assert ": good: " in capsys.readouterr().out
    folder = tmp_path / "run"
    assert train("--config", path, "--output", folder) == 0
    texts = (folder / "samples.txt").read_text().partition("--- 2")[0].splitlines()
    source, reference = (file.read_text().splitlines()[0] for file in (tmp_path / "a.txt", tmp_path / "b.txt"))
    assert texts[-3:-1] == [source, reference] or texts[-2:] == [source, reference]  # an empty translation ends it
    shared = [
        "--run",
        str(folder),
        "--steps",
        "2",
        "--sampler",
        "ancestral",
        "--set",
        "generation.guidance=1.5",
        "--json",
    ]
    assert evaluate([*shared, "--draws", "2", "--max-rows", "3"]) == 0
    report = json.loads(capsys.readouterr().out)
    found = {figure["name"]: figure for figure in report["figures"]}
    assert found["nats_per_pair"]["unit"] == "nats"
    assert found["nats_per_pair"]["note"].startswith("at most, at eps 0 by counts, given the sources")
    parts = sum(found[f"{name}_part"]["value"] for name in ("diffusion", "prior", "reconstruction"))
    assert found["nats_per_pair"]["value"] == pytest.approx(parts)
    assert {"bleu", "chrf", "bits_per_token"} <= found.keys()
    assert (
        "the bound is of a target on a canvas of 20 tokens, filled with end tokens, all of which count"
        in report["notes"]
    )
    assert "targets drawn at temperature 0, 4 network calls a target" in report["notes"]
    assert generate([*shared, "--prompt", "the quick fox"]) == 0
    samples = json.loads(capsys.readouterr().out)["samples"]
    assert [sample["prompt"] for sample in samples] == ["the quick fox"] * 2
    assert all(sample["num_tokens"] <= 20 for sample in samples)
    assert generate(["--run", str(folder)]) != 0
    assert "--prompt TEXT" in capsys.readouterr().err


class Plain(nn.Module):
    """A model with a loss that counts every token."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        raise NotImplementedError


class PlainConfig(StrictModel):
    size: int = 3


def _build(config: PlainConfig) -> nn.Module:
    return Plain()


@pytest.mark.parametrize("builder", [_build, lambda config: None])
def test_model_without_response_mask_is_refused_at_its_line(
    builder: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    register_model("plain", config=PlainConfig)(builder)
    try:
        path = experiment(tmp_path, model={"model_type": "plain"}, datasets=[pairs_of_letters(tmp_path)])
        code, text = check(["--config", str(path)]), capsys.readouterr()
    finally:
        MODELS._entries.pop("plain")
    if builder is not _build:  # only a call of the builder tells what it makes
        assert code == 0
        setting = TaskSetting(read_config(path, "mdlm"), None)
        with pytest.raises(UnfitError, match=r"Plain\.forward\(.* has no keyword response_mask"):
            ConditionalDiffusion(setting).check(Plain())
        return
    assert code == 1
    assert re.search(r"yml:\d+:\d+: model.model_type: pairs need .*Plain\.forward\(", text.err)
