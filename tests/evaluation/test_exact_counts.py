"""Rejection sampling by exact counts, on polymers with exactly two ends."""

from collections import Counter

import pytest
import torch

from model_factory.cli.generate import main
from model_factory.evaluation.run import open_run
from model_factory.evaluation.sampling.draw import draw
from model_factory.evaluation.sampling.sample import Request
from model_factory.training.errors import UnfitError
from tests.evaluation.untrained_runs import DECODER, MDLM, make_run

POLYMERS = ["*C*", "*N*", "*O*", "*C", "C*", "C"]


def polymers(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.smi").write_text("\n".join(POLYMERS) + "\n")
    return [{"name": "tiny", "source": "smiles", "data_files": {"train": str(folder / "train.smi")}}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("polymers")
    section = {**MDLM, "length": 8}
    return make_run(made, section, polymers(made), "diffusion")


def biased(run):
    """Make the model predict `*` with probability 0.4 and C with 0.6 at every position."""
    ids = {text: run.tokenizer.encode(text)[0] for text in "*C"}
    logits = torch.full((run.model.process.graph.dim,), -30.0)
    logits[ids["*"]], logits[ids["C"]] = torch.tensor([0.4, 0.6]).log()
    run.model.network.forward = lambda x_t, *_, **__: logits.expand(*x_t.shape, -1)
    return run


def test_rejection_keeps_the_conditional_distribution(folder):
    run = biased(open_run(folder, ["generation.num_samples=600", "generation.exactly={'*': 2}"]))
    found = draw(run, Request(length=4, seed=1))
    texts = [sample.text for sample in found.samples]
    assert len(texts) == 600
    assert {text.count("*") for text in texts} == {2}
    counts = Counter(texts)
    assert len(counts) == 6  # positions of two in four, all equally likely
    assert max(counts.values()) < 100 + 4 * 9.2
    assert min(counts.values()) > 100 - 4 * 9.2
    (note,) = found.notes
    assert note.startswith("exactly 2 '*' held in 600 of ")
    share = 600 / int(note.split(" of ")[1].split()[0].replace(",", ""))
    assert share == pytest.approx(6 * 0.4**2 * 0.6**2, abs=0.05)


def test_rejection_is_seeded_and_redraws_lengths(folder):
    options = ["generation.num_samples=30", "generation.exactly={'*': 2, 'C': 1}"]
    first, again = (draw(biased(open_run(folder, options)), Request(seed=2)) for _ in range(2))
    assert [sample.text for sample in first.samples] == [sample.text for sample in again.samples]
    assert {"".join(sorted(sample.text)) for sample in first.samples} == {"**C"}


def test_rejection_ends_after_max_attempts(folder):
    run = biased(
        open_run(folder, ["generation.num_samples=2", "generation.exactly={N: 1}", "generation.max_attempts=5"])
    )
    message = r"exactly 1 'N' held in 0 of 10 samples, and 2 were requested; raise generation\.max_attempts"
    with pytest.raises(UnfitError, match=message):
        draw(run, Request())


def test_rejection_with_a_decoder_notes_the_acceptance_rate(tmp_path, capsys):
    run = make_run(tmp_path, DECODER, polymers(tmp_path), "language_modelling")
    rule = ("--set", "generation.exactly={'*': 0}", "--set", "generation.max_new_tokens=3", "--num-samples", "3")
    assert main(["--run", str(run), *rule]) == 0
    out, err = capsys.readouterr()
    assert "*" not in out
    assert "exactly 0 '*' held in 3 of " in err
    assert main(["--run", str(run), "--set", "generation.max_attempts=3"]) == 1
    assert "without exactly none is" in capsys.readouterr().err
