"""`evaluate.py --write-predictions`: a JSON object for each row, whose scores sum up to the figures."""

import json

import pytest

from model_factory.cli.evaluate import main
from model_factory.evaluation.predictions import Predictions
from model_factory.training.errors import WriteError
from tests.evaluation.untrained_runs import DECODER, MDLM, PAIR, STACK, make_run, pair_data, text_data


def measured(capsys, run, file, *words):
    """Return the lines of the predictions, and the figures by name."""
    command = ["--run", str(run), "--write-predictions", str(file), "--json", "--num-samples", "0", *words]
    assert main(command) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    return [json.loads(line) for line in file.read_text().splitlines()], {one["name"]: one["value"] for one in figures}


def test_translations(tmp_path, capsys):
    run = make_run(tmp_path / "pair", PAIR, pair_data(tmp_path / "pair"), "translation")
    lines, figures = measured(capsys, run, tmp_path / "out.jsonl")
    sources, targets = ((tmp_path / "pair" / f"{side}.txt").read_text().splitlines() for side in "ab")
    assert [line["row"] for line in lines] == list(range(12))
    assert [line["input"] for line in lines] == sources
    assert [line["reference"] for line in lines] == targets
    assert set(lines[0]["score"]) == {"bleu", "chrf"}
    from sacrebleu.metrics import BLEU, CHRF

    found = [line["prediction"] for line in lines]
    assert figures["bleu"] == pytest.approx(BLEU(force=True).corpus_score(found, [targets]).score)
    assert lines[1]["score"]["chrf"] == CHRF().sentence_score(found[1], [targets[1]]).score


@pytest.mark.parametrize(("model", "task"), [(DECODER, "language_modelling"), (MDLM, "diffusion")])
def test_texts(tmp_path, capsys, model, task):
    run = make_run(tmp_path / "text", model, text_data(tmp_path / "text"), task)
    lines, figures = measured(capsys, run, tmp_path / "out.jsonl")
    text = (tmp_path / "text" / "test.txt").read_text()
    assert "".join(line["input"] for line in lines) == text
    assert "prediction" not in lines[0]
    bits, tokens = (sum(line["score"][name] for line in lines) for name in ("bits", "tokens"))
    assert bits / tokens == pytest.approx(figures["bits_per_token"])


def test_classes(tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "the fox", "kind": "a"}\n{"text": "a dog", "kind": "b"}\n{"text": "ox", "kind": "a"}\n')
    data = {"name": "rows", "source": "json", "data_files": {"train": str(rows), "test": str(rows)}, "label": "kind"}
    encoder = {"model_type": "encoder", "name": "classes", "encoder": STACK}
    kind = "sequence_classification"
    run = make_run(tmp_path / "classes", encoder, [data | {"classes": ["a", "b"]}], kind, num_labels=2)
    lines, figures = measured(capsys, run, tmp_path / "out.jsonl", "--max-rows", "2")
    assert [(line["input"], line["reference"]) for line in lines] == [("the fox", "a"), ("a dog", "b")]
    assert sum(line["prediction"] == line["reference"] for line in lines) / 2 == figures["accuracy"]
    assert all(0.5 <= line["score"]["probability"] <= 1 for line in lines)
    assert sum(line["score"]["bits"] for line in lines) / 2 == pytest.approx(figures["cross_entropy"])


def test_latent_reconstructions(latent_run, tmp_path, capsys):
    lines, figures = measured(capsys, latent_run, tmp_path / "out.jsonl")
    assert all(line["input"] == line["reference"] for line in lines)
    nats, tokens = (sum(line["score"][name] for line in lines) for name in ("nats", "tokens"))
    assert nats / tokens == pytest.approx(figures["reconstruction_nats"])
    exact = sum(line["prediction"] == line["reference"] for line in lines)
    assert exact / len(lines) == figures["exact"]


def test_file_that_cannot_be_written(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--write-predictions", str(tmp_path)])
    assert "--write-predictions takes a file, and" in capsys.readouterr().err
    with pytest.raises(WriteError, match="cannot be written"):
        Predictions(tmp_path / "absent" / "out.jsonl")
    assert not Predictions()


def test_failed_evaluation_leaves_the_file_of_before(tmp_path, capsys):
    run = make_run(tmp_path / "pair", PAIR, pair_data(tmp_path / "pair"), "translation")
    (tmp_path / "out.jsonl").write_text("before")
    (tmp_path / "empty.txt").write_text("a\n")
    words = [
        "--run",
        str(run),
        "--write-predictions",
        str(tmp_path / "out.jsonl"),
        "--data",
        str(tmp_path / "empty.txt"),
    ]
    assert main(words) == 1
    assert (tmp_path / "out.jsonl").read_text() == "before"
    draft = Predictions(tmp_path / "out.jsonl")
    draft.close()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["empty.txt", "out.jsonl"]
    assert (tmp_path / "out.jsonl").read_text() == "before"
