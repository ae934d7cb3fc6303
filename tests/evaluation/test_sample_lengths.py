"""Lengths of diffusion samples over whole documents, drawn from the training data."""

import json

import pytest
import torch

from model_factory.evaluation.run import open_run
from model_factory.evaluation.sampling.discrete import draw_lengths
from model_factory.evaluation.sampling.draw import draw
from model_factory.evaluation.sampling.sample import Request
from model_factory.experiment.config import read_experiment
from model_factory.training.engine import train
from model_factory.training.errors import RunFolderError, UnfitError
from tests.evaluation.untrained_runs import MDLM, make_run, text_data

MOLECULES = ["CC", "CCO", "CCO", "CCNC", "CCCCCC"]
LENGTHS = {4, 5, 6, 8}


def molecules(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.smi").write_text("\n".join(MOLECULES) + "\n")
    (folder / "test.smi").write_text("CCCCCCCC\n")
    files = {split: str(folder / f"{split}.smi") for split in ("train", "test")}
    return [{"name": "tiny", "source": "smiles", "data_files": files, "sequence_length": 16}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("molecules")
    return make_run(made, MDLM, molecules(made), "diffusion")


def watched(run):
    """Record the arguments of the model's `draw`."""
    calls, draw_samples = [], run.model.draw

    def watch(count, length, **options):
        calls.append({"length": length, **options})
        return draw_samples(count, length, **options)

    run.model.draw = watch
    return run, calls


def test_sample_lengths_follow_the_training_rows(folder):
    run, calls = watched(open_run(folder, ["generation.num_samples=40"]))
    found = draw(run, Request(seed=3, batch_size=16)).samples
    sizes = torch.cat([options["mask"].sum(1) for options in calls])
    assert sizes.tolist() == draw_lengths(run, 40, 3).tolist()
    assert set(sizes.tolist()) == LENGTHS
    assert all(len(sample.tokens) <= size for sample, size in zip(found, sizes.tolist(), strict=True))
    assert [sample.network_calls for sample in found] == sizes.tolist()  # first-hitting: a call a real token


def test_sample_lengths_are_seeded(folder):
    run = open_run(folder, ["generation.num_samples=12"])
    lengths = draw_lengths(run, 12, 3)
    assert torch.equal(lengths, draw_lengths(run, 12, 3))
    assert not torch.equal(lengths, draw_lengths(run, 12, 4))
    many = draw_lengths(run, 10_000, 0)
    assert (many == 5).float().mean() == pytest.approx(2 / 5, abs=0.02)


def test_sample_lengths_yield_to_length_and_prompt(folder):
    run, calls = watched(open_run(folder))
    draw(run, Request(length=7))
    draw(run, Request(prompts=("CC",)))
    assert [options["length"] for options in calls] == [7, 16]
    assert all("mask" not in options for options in calls)


def test_sample_length_of_packed_rows_is_the_row_length(tmp_path):
    run, calls = watched(open_run(make_run(tmp_path, MDLM, text_data(tmp_path), "diffusion")))
    draw(run, Request())
    assert calls[0]["length"] == 24
    assert "mask" not in calls[0]


def test_training_saves_lengths_for_sampling_without_data(tmp_path):
    overrides = [
        f"model={json.dumps(MDLM)}",
        f"datasets={json.dumps(molecules(tmp_path))}",
        f"global_config={json.dumps({'output_dir': str(tmp_path / 'manifests')})}",
        "training={max_steps: 2, batch_size: 2, eval_split: test}",
    ]
    (tmp_path / "file.yml").write_text("generation: {num_samples: 4}\n")
    train(read_experiment(tmp_path / "file.yml", overrides).config, tmp_path / "run")
    assert json.loads((tmp_path / "run/lengths.json").read_text())["counts"] == {"4": 1, "5": 2, "6": 1, "8": 1}
    assert (tmp_path / "run/samples.txt").read_text().count("--- ") == 4
    (tmp_path / "train.smi").unlink()
    run = open_run(tmp_path / "run")
    assert set(draw_lengths(run, 200, 0).tolist()) == LENGTHS
    (tmp_path / "run/lengths.json").write_text("{}")
    with pytest.raises(RunFolderError, match=r"lengths\.json is empty or has a length or a count below 1; remove it"):
        draw(run, Request())
    (tmp_path / "run/lengths.json").unlink()
    with pytest.raises(UnfitError, match=r"lengths\.json is not there; give --length N"):
        draw(run, Request())
    assert draw(run, Request(length=5)).samples
