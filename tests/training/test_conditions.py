"""Conditioning on properties: sizes, normalisation, and samples that follow a property in its own unit."""

import json

import pytest
import torch

from model.denoisers.embeddings import ConditionEmbedding
from model.denoisers.view import BackboneView
from model_factory.evaluation.rows import load_split
from model_factory.evaluation.run import open_run
from model_factory.evaluation.sampling.draw import draw
from model_factory.evaluation.sampling.sample import Request
from model_factory.evaluation.settings import Settings
from model_factory.experiment.config import read_experiment
from model_factory.experiment.metric_registry import metrics_of
from model_factory.training.engine import train
from model_factory.training.run.folder import load_run
from model_factory.training.splits import fill_condition_scale
from parse_args import main

pytest.importorskip("rdkit", reason="needs rdkit, the extra chem")
BACKBONE = {"type": "ddit", "d_model": 32, "num_layers": 1, "num_heads": 2, "cond_dim": 16, "dropout": 0.0}
SECTION = {
    "model_type": "diffusion",
    "name": "chains",
    "objective": {"type": "mdlm"},
    "backbone": {**BACKBONE, "device": "cpu"},
    "condition": {"type": "properties", "size": 1},
}


def experiment(folder, lines, training, **more):
    (folder / "train.smi").write_text("\n".join(lines) + "\n")
    files = {"train": str(folder / "train.smi"), "test": str(folder / "train.smi")}
    entry = {
        "name": "tiny",
        "source": "smiles",
        "data_files": files,
        "properties": ["charge"],
        "sequence_length": 12,
        **more,
    }
    sections = {"model": SECTION, "datasets": [entry], "training": {"eval_split": "test", **training}}
    sections["global_config"] = {"output_dir": str(folder / "manifests")}
    (folder / "file.yml").write_text("generation: {num_samples: 2}\n")
    return read_experiment(
        folder / "file.yml", [f"{key}={json.dumps(value)}" for key, value in sections.items()]
    ).config


def test_condition_in_its_own_unit_steers_samples(tmp_path):
    # molecules of charge 0 and 1 differ in one atom
    lines = ["CCCC", "CCC[NH3+]"] * 8
    settings = {"max_steps": 400, "batch_size": 32, "learning_rate": 1e-2, "eval_steps": 400}
    train(experiment(tmp_path, lines, settings), tmp_path / "run")
    condition = load_run(tmp_path / "run").config.model.config.condition
    assert condition.mean == [0.5]
    assert condition.std == [0.5]
    run = open_run(tmp_path / "run", ["generation.num_samples=20", "generation.guidance=2.0"])
    for charge, expected in (("0", 0), ("1.0", 20)):
        charged = sum("[NH3+]" in sample.text for sample in draw(run, Request(condition=charge)).samples)
        assert charged == pytest.approx(expected, abs=4)
    assert train(experiment(tmp_path, lines, settings), tmp_path / "run", resume=True).was_finished
    report = metrics_of("diffusion")(run, load_split(run, "test", max_rows=None, seed=0), Settings())
    assert 0 <= report.value("validity") <= 1  # guidance uses the conditions of the split's rows


def test_condition_scale_is_that_of_training_rows(tmp_path):
    from data_manager.data_manager import DatasetManager

    config = experiment(tmp_path, ["C", "CC", "CCCCC"], {}, properties=["heavy_atoms"])
    rows = DatasetManager.load_dataset(config.datasets[0])["train"]
    found = fill_condition_scale(config.model, rows)
    assert found.config.condition.mean == [2.66667]
    assert found.config.condition.std == [1.69967]
    assert fill_condition_scale(found, rows.select([0])) is found
    constant = fill_condition_scale(config.model, rows.select([1]))
    assert (constant.config.condition.mean, constant.config.condition.std) == ([2.0], [1.0])


def test_condition_embedding_scales_properties():
    torch.manual_seed(0)
    plain = ConditionEmbedding(BackboneView({"size": 2}), 8)
    scaled = ConditionEmbedding(BackboneView({"size": 2, "mean": [300.0, 0.5], "std": [100.0, 0.1]}), 8)
    scaled.load_state_dict(plain.state_dict())
    raw = torch.tensor([[400.0, 0.4], [torch.nan, torch.nan]])
    torch.testing.assert_close(scaled(raw), plain(torch.tensor([[1.0, -1.0], [torch.nan, torch.nan]])))


@pytest.mark.parametrize(
    ("condition", "properties", "message"),
    [
        (
            "{type: properties, size: 3}",
            "[logp, qed]",
            "asks for as many properties of each row, and data set 'a' gives 2",
        ),
        ("{type: properties, size: 3}", None, "data set 'a' gives none; try properties: [logp, qed]"),
        ("{type: properties, size: 2, mean: [1.0], std: [1.0]}", "[logp, qed]", "mean has 1 numbers, but there are 2"),
        ("{type: properties, size: 1, mean: [1.0]}", "[logp]", "mean is given without std; give both, or neither"),
        ("{type: properties, size: 1, mean: [1.0], std: [0.0]}", "[logp]", "must be greater than 0; got 0.0"),
        ("{type: class, num_classes: 3}", None, None),
    ],
)
def test_condition_size_is_checked_before_building(condition, properties, message, tmp_path, capsys):
    extra = f", properties: {properties}" if properties else ""
    (tmp_path / "case.yml").write_text(
        "model:\n  model_type: diffusion\n  name: x\n  objective: {type: mdlm}\n"
        f"  backbone: {json.dumps(BACKBONE)}\n  condition: {condition}\n"
        f"datasets:\n  - {{name: a, source: smiles, data_files: {{train: a.smi}}{extra}}}\n"
    )
    assert main(["--config", str(tmp_path / "case.yml")]) == (1 if message else 0)
    if message:
        error = capsys.readouterr().err
        assert message in error
        assert "case.yml:6:" in error
