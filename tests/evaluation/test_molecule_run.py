"""Evaluation of a run on molecules, with metrics of chemistry instead of words."""

import pytest
import torch

from model_factory.evaluation.rows import load_split
from model_factory.evaluation.run import open_run
from model_factory.evaluation.settings import Settings
from model_factory.experiment.metric_registry import metrics_of
from tests.evaluation.untrained_runs import MDLM, make_run

pytest.importorskip("rdkit")
KNOWN = ["CCO", "CCN", "c1ccccc1", "CC(=O)O", "CCCl", "C1CCCCC1"]


def test_molecule_metrics_of_a_run(tmp_path):
    for split, names in (("train", KNOWN), ("test", ["CCC", "CCS"])):
        (tmp_path / f"{split}.smi").write_text("\n".join(names) + "\n")
    files = {split: str(tmp_path / f"{split}.smi") for split in ("train", "test")}
    data = [{"name": "zinc", "source": "smiles", "data_files": files, "sequence_length": 12}]
    run = open_run(make_run(tmp_path, MDLM, data, "diffusion"), ["generation.num_samples=3"])
    tokenizer = run.tokenizer
    rows = [[tokenizer.bos_token_id, *tokenizer.encode(text), tokenizer.eos_token_id] for text in ("CCO", "CCCN", "((")]
    drawn = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=5)
    run.model.draw = lambda *_, **__: type("State", (), {"tokens": drawn, "network_calls": torch.zeros(3)})
    report = metrics_of("diffusion")(run, load_split(run, None, max_rows=None, seed=0), Settings())
    assert report.value("validity") == pytest.approx(2 / 3)
    assert report.value("novelty") == pytest.approx(1 / 2)
    assert report.value("uniqueness") == 1
    assert 0 < report.value("internal_diversity") < 1
    assert report.examples[0] == "CCO"
