"""Commands `evaluate.py` and `model-factory`: reports, exit codes, verbs."""

import json
import re
import sys

import pytest

from data_manager.data_manager import DatasetManager
from model_factory.cli.evaluate import main
from model_factory.cli.main import main as verbs
from model_factory.training.run.data_hashes import hash_splits, write_split_hashes
from parse_args import parse_experiment
from tests.evaluation.untrained_runs import DECODER, PAIR, make_run, pair_data, text_data


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return make_run(folder, DECODER, text_data(folder), "language_modelling")


def test_evaluate_prints_a_table(run, capsys):
    assert main(["--run", str(run), "--num-samples", "0"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{run}: language_modelling on ")
    assert "bits_per_character" in out
    assert "bootstrap over rows" in out
    assert "entropy" not in out


def test_evaluate_json_describes_each_figure(run, capsys):
    words = ["--run", str(run), "--split", "train", "--max-rows", "5", "--num-samples", "2", "--seed", "7", "--json"]
    assert main(words) == 0
    first = capsys.readouterr().out
    report = json.loads(first)
    assert (report["ok"], report["errors"], report["rows"], report["split"]) == (True, [], 5, "train")
    for figure in report["figures"]:
        assert {"name", "value", "low", "high", "n", "of", "seed", "method", "level"} <= set(figure)
        assert figure["seed"] == 7
    assert main(words) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["figures"] == report["figures"]


def test_evaluate_exit_codes_of_bad_input(run, capsys):
    assert main(["--run", str(run), "--split", "dev"]) == 1
    assert "--split dev: data set 'tiny' has the splits train, test" in capsys.readouterr().err
    assert main(["--run", str(run), "--judge", str(run / "nope")]) == 3
    assert main(["--run", str(run / "nope")]) == 3
    assert main(["--run", str(run), "--set", "datasets.0.data_files={train: gone.txt, test: gone.txt}"]) == 4
    assert "gone.txt" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["--run", str(run), "--draws", "0"])
    assert caught.value.code == 2


def test_model_factory_verbs(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert verbs(["--help"]) == 0
    assert all(verb in capsys.readouterr().out for verb in ("validate",))
    assert verbs(["generate", "--run", str(run), "--prompt", "the", "--num-samples", "1"]) == 0
    assert verbs(["evaluate", "--run", str(run), "--num-samples", "0", "--max-rows", "2"]) == 0
    assert verbs(["validate", "--config", str(run / "config.yml")]) == 0
    capsys.readouterr()
    assert verbs(["evalute"]) == 2
    assert "there is no verb 'evalute'; did you mean 'evaluate'?" in capsys.readouterr().err
    assert verbs([]) == 2
    with pytest.raises(SystemExit) as caught:
        verbs(["train"])
    assert caught.value.code == 2


def test_evaluate_notes_changed_data(tmp_path, capsys):
    data = text_data(tmp_path)
    run = make_run(tmp_path, DECODER, data, "language_modelling")
    (entry,) = parse_experiment(run / "config.yml").datasets
    write_split_hashes(run / "rows.json", hash_splits(DatasetManager.load_dataset(entry)))
    assert main(["--run", str(run), "--num-samples", "0"]) == 0
    assert "other rows" not in capsys.readouterr().out
    file = tmp_path / "test.txt"
    file.write_text(file.read_text().replace("quick brown", "brown quick", 1))
    assert main(["--run", str(run), "--num-samples", "0", "--json"]) == 0
    (note,) = json.loads(capsys.readouterr().out)["notes"]
    assert note.startswith("split 'test' has ")


def test_evaluate_suggests_similar_run_names(run, capsys):
    for name in (run.parent / "rum", run.parent / "Run"):
        assert main(["--run", str(name)]) == 3
        assert capsys.readouterr().err == f"{name} is not there; give the folder of a run; did you mean {run}?\n"
    assert main(["--run", str(run.parent / "elsewhere")]) == 3
    assert "did you mean" not in capsys.readouterr().err


def test_evaluate_keeps_figures_if_one_fails(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)  # as if sacrebleu was not installed
    pair = make_run(tmp_path, PAIR, pair_data(tmp_path), "translation")
    words = ["--run", str(pair), "--html", str(tmp_path / "page.html")]
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert re.search(r"^bits_per_token +\d", out, re.MULTILINE)
    assert re.search(r"^chrf +nan +none .* failed: BLEU and chrF are computed by sacrebleu", out, re.MULTILINE)
    assert f"{pair}: BLEU and chrF are computed by sacrebleu, which is not installed: pip install" in err
    assert "failed: BLEU and chrF" in (tmp_path / "page.html").read_text()
    assert main([*words[:2], "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], len(report["errors"])) == (False, 2)
    values = {figure["name"]: figure["value"] for figure in report["figures"]}
    assert values["perplexity"] > 0
    assert values["bleu"] is None
    assert main(["--run", str(run), "--num-samples", "2", "--judge", str(run / "nope")]) == 3
    out, err = capsys.readouterr()
    assert re.search(r"^distinct_1 +\d", out, re.MULTILINE)
    assert "nope is not there; give a run folder" in err


def test_evaluate_interrupted_exits_with_130(run, capsys, monkeypatch):
    monkeypatch.setattr("model_factory.evaluation.rows.load_split", stopped)
    assert main(["--run", str(run)]) == 130
    assert capsys.readouterr().err.endswith(f"\n{run}: interrupted\n")


def stopped(*args, **options):
    raise KeyboardInterrupt


def test_evaluate_on_a_split_that_training_lacked(tmp_path, capsys):
    data = text_data(tmp_path, tokenizer={"type": "bytes"})
    run = make_run(tmp_path, DECODER, data, "language_modelling", train_split="train", eval_split="test")
    other = f"datasets.0.data_files={{elsewhere: {tmp_path}/test.txt}}"
    assert main(["--run", str(run), "--set", other, "--split", "elsewhere", "--num-samples", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["split"] == "elsewhere"
