"""`python -m benchmarks.molecules` on a tiny run: the table, the plot, and PolyDiff's sampler with the same weights."""

import json
from itertools import pairwise

import pytest
import torch

from benchmarks.molecule_conditions import main as conditions
from benchmarks.molecules import main
from benchmarks.polydiff_sampler import redraw_every_token
from model_factory.evaluation.run import open_run
from tests.evaluation.untrained_runs import DECODER, MDLM, make_run

pytest.importorskip("rdkit")


def molecules(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.smi").write_text("CCO\nCC\nc1ccccc1\nCCN\n")
    return [{"name": "tiny", "source": "smiles", "data_files": {"train": str(folder / "train.smi")}}]


def test_molecule_benchmark_tabulates_run_and_baselines(tmp_path, capsys):
    run = make_run(tmp_path / "a", {**MDLM, "length": 8}, molecules(tmp_path / "a"), "diffusion")
    decoder = make_run(tmp_path / "b", DECODER, molecules(tmp_path / "b"), "language_modelling")
    words = [
        "--run",
        run,
        "--samples",
        6,
        "--vary",
        "temperature=0.5,sampler=ancestral,steps=4",
        "--baseline",
        "polydiff",
    ]
    files = ["--baseline", decoder, "--json", tmp_path / "found.json", "--output", tmp_path / "plot.png"]
    assert main([*map(str, words), *map(str, files)]) == 0
    table = capsys.readouterr().out.splitlines()
    names = ["run", "temperature=0.5,sampler=ancestral,steps=4", "polydiff", "polydiff, copying", "run"]
    assert [line.split("|")[1].strip() for line in table[2:]] == names
    found = json.loads((tmp_path / "found.json").read_text())
    assert [row["samples"] for row in found["rows"]] == [6] * 5
    assert all(row["figures"][0]["name"] == "validity" for row in found["rows"])
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_polydiff_sampler_redraws_all_tokens_and_never_masks(tmp_path):
    folder = make_run(tmp_path, {**MDLM, "length": 8}, molecules(tmp_path), "diffusion")
    model, seen = open_run(folder).model, []
    original = model._predict
    model._predict = lambda x_t, *args, **more: seen.append(x_t) or original(x_t, *args, **more)
    lengths, mask = torch.tensor([8, 5]), model.process.graph.mask_token
    found = redraw_every_token(model, lengths, steps=7, generator=torch.Generator().manual_seed(0))
    assert [len(row) for row in found] == [8, 5]
    assert len(seen) == 7
    assert bool((seen[0][0] == mask).all())
    assert not any(bool((tokens[0] == mask).any()) for tokens in seen[1:])
    assert all(bool((before != after).any()) for before, after in pairwise(seen))
    seen.clear()
    redraw_every_token(model, lengths, steps=7, copies=True, generator=torch.Generator().manual_seed(0))
    assert len(seen) == 1


def test_molecule_benchmark_properties_by_guidance(tmp_path, capsys):
    section = {**MDLM, "length": 8, "condition": {"type": "properties", "size": 1, "mean": [1.0], "std": [1.0]}}
    data = [{**molecules(tmp_path)[0], "properties": ["logp"]}]
    folder = make_run(tmp_path, section, data, "diffusion")
    words = [
        "--run",
        folder,
        "--condition",
        "1.5",
        "--guidance",
        0,
        2,
        "--samples",
        5,
        "--output",
        tmp_path / "plot.png",
    ]
    assert conditions(list(map(str, words))) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0] == "| asked for | guidance | samples | valid | logp |"
    assert [line.split("|")[2].strip() for line in table[2:]] == ["0", "2"]
    assert (tmp_path / "plot.png").exists()
