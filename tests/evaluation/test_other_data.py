"""`evaluate.py --data`: a run is measured on data that it does not name, with its own tokenizer."""

import json

import pytest
from datasets import Dataset

from model_factory.cli.evaluate import main
from model_factory.evaluation.data import find_data
from model_factory.evaluation.rows import load_split
from model_factory.evaluation.run import open_run
from model_factory.training.errors import UnfitError
from model_factory.yaml_config.dump import dump
from tests.evaluation.untrained_runs import DECODER, PAIR, STACK, make_run, pair_data, text_data

ENCODER = {"model_type": "encoder", "name": "classes", "encoder": STACK}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    (folder / "rows.jsonl").write_text('{"body": "the fox", "kind": "a"}\n{"body": "a dog", "kind": "b"}\n')
    labels = {"column": "body", "label": "kind", "classes": ["a", "b"]}
    files = {"train": str(folder / "rows.jsonl"), "test": str(folder / "rows.jsonl")}
    rows = [{"name": "rows", "source": "json", "data_files": files, **labels}]
    kind = "sequence_classification"
    return {
        "pair": make_run(folder / "pair", PAIR, pair_data(folder / "pair"), "translation"),
        "decoder": make_run(folder / "decoder", DECODER, text_data(folder / "decoder"), "language_modelling"),
        "classes": make_run(folder / "classes", ENCODER, rows, kind, num_labels=2),
    }


def texts_of(run, *paths, columns=()):
    """Return the decoded rows of other data, source and target of pairs."""
    opened = open_run(run)
    split = load_split(opened, None, max_rows=None, seed=0, other=find_data(opened, [*map(str, paths)], columns))
    sides = [name for name in ("input_ids", "source_ids", "target_ids") if name in split.rows.table.column_names]
    return [tuple(opened.tokenizer.decode(row[side]) for side in sides) for row in split.rows.table]


def failed(capsys, code, *words):
    assert main([*map(str, words)]) == code
    return capsys.readouterr().err


def test_text_in_every_form(runs, tmp_path):
    text, run = "the lazy dog", runs["decoder"]
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}))
    (tmp_path / "a.csv").write_text(f"id,text\n1,{text}\n")
    (tmp_path / "a.tsv").write_text(f"id\tbody\n1\t{text}\n")
    Dataset.from_dict({"text": [text]}).to_parquet(str(tmp_path / "a.parquet"))
    Dataset.from_dict({"text": [text]}).save_to_disk(str(tmp_path / "saved"))
    for name in ("a.txt", "a.jsonl", "a.csv", "a.parquet", "saved"):
        assert texts_of(run, tmp_path / name) == [(text,)]
    assert texts_of(run, tmp_path / "a.tsv", columns=["body"]) == [(text,)]
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, part in (("1.txt", "the fox"), ("2.txt", "a dog"), (".hidden", "x")):
        (folder / name).write_text(part)
    assert texts_of(run, folder) == [("the fox",), ("a dog",)]


@pytest.mark.parametrize("tokenizer", [{"type": "characters"}, {"type": "bpe", "vocab_size": 270}, {"type": "bytes"}])
def test_own_test_text_in_a_file_has_the_figures_of_the_run(tmp_path, capsys, tokenizer):
    run = make_run(tmp_path / "r", DECODER, text_data(tmp_path / "text", tokenizer=tokenizer), "language_modelling")
    found = []
    for more in ([], ["--data", str(tmp_path / "text" / "test.txt")]):
        assert main(["--run", str(run), "--num-samples", "0", "--json", *more]) == 0
        found.append({one["name"]: one["value"] for one in json.loads(capsys.readouterr().out)["figures"]})
    assert found[0] == found[1]
    assert found[0]["bits_per_token"] > 0


def test_characters_that_the_run_does_not_know_stay_unknown(runs, tmp_path):
    (tmp_path / "a.txt").write_text("fox Ω")
    assert texts_of(runs["decoder"], tmp_path / "a.txt") == [("fox �",)]


def test_pairs_in_every_form(runs, tmp_path):
    run, pairs = runs["pair"], [("the fox", "xof"), ("over", "revo")]
    (tmp_path / "test.en").write_text("".join(f"{source}\n" for source, _ in pairs))
    (tmp_path / "test.de").write_text("".join(f"{target}\n" for _, target in pairs))
    Dataset.from_dict({"en": [one for one, _ in pairs], "de": [two for _, two in pairs]}).to_csv(
        str(tmp_path / "a.csv")
    )
    table = [{"source": source, "target": target} for source, target in pairs]
    (tmp_path / "a.json").write_text(json.dumps(table))
    assert texts_of(run, tmp_path / "test.en", tmp_path / "test.de") == pairs
    assert texts_of(run, tmp_path / "test.de", tmp_path / "test.en") == [pair[::-1] for pair in pairs]
    assert texts_of(run, tmp_path / "a.json") == pairs
    assert texts_of(run, tmp_path / "a.csv", columns=["en", "de"]) == pairs


def test_data_set_of_a_yaml_file(runs, tmp_path, capsys):
    (tmp_path / "train.txt").write_text("fox")
    (tmp_path / "dev.txt").write_text("a dog")
    data = [{"name": "new", "source": "text", "data_files": {s: str(tmp_path / f"{s}.txt") for s in ("train", "dev")}}]
    (tmp_path / "data.yml").write_text(dump({"datasets": [data[0] | {"tokenizer": {"type": "bytes"}}]}))
    assert texts_of(runs["decoder"], tmp_path / "data.yml") == [("a dog",)]
    base = ("--run", runs["decoder"], "--data", tmp_path / "data.yml", "--num-samples", 0)
    assert main([*map(str, base), "--split", "train"]) == 0
    assert "language_modelling on 1 rows of new / train" in capsys.readouterr().out
    assert "has the splits train, dev" in failed(capsys, 1, *base, "--split", "test")
    assert "'new' has texts, and" in failed(capsys, 1, "--run", runs["pair"], "--data", tmp_path / "data.yml")


def test_rows_of_a_yaml_file_have_the_length_of_the_run(runs, tmp_path):
    (tmp_path / "long.txt").write_text("the lazy dog " * 50)
    data = {"name": "x", "source": "text", "data_files": {"test": str(tmp_path / "long.txt")}}
    opened = open_run(runs["decoder"])
    (tmp_path / "a.yml").write_text(dump({"datasets": [data]}))
    (tmp_path / "b.yml").write_text(dump({"datasets": [data | {"sequence_length": 7}]}))
    found = [find_data(opened, [str(tmp_path / name)]).sequence_length for name in ("a.yml", "b.yml")]
    assert found == [opened.dataset_config.sequence_length, 7]


def test_classes_are_read_by_the_columns_of_the_run(runs, tmp_path, capsys):
    (tmp_path / "new.csv").write_text("kind,body\nb,the dog\na,fox\nb,ox\n")
    assert main(["--run", str(runs["classes"]), "--data", str(tmp_path / "new.csv")]) == 0
    assert "on 3 rows of new.csv / test" in capsys.readouterr().out


def test_data_that_do_not_fit(runs, tmp_path, capsys):
    for name in ("a.txt", "a.csv"):
        (tmp_path / name).write_text("text\nfox\n")
    (tmp_path / "empty").mkdir()
    text, table = tmp_path / "a.txt", tmp_path / "a.csv"
    for run, paths, message in (
        ("pair", [text], "give two files, the sources first, or a table"),
        ("pair", [tmp_path], "files of the kinds csv, text are not one data set"),
        ("pair", [table], "there is no column 'source'; columns: text"),
        ("decoder", [tmp_path / "empty"], "has no files"),
        ("decoder", [text, "--column", "a"], "a text file has no columns"),
    ):
        assert message in failed(capsys, 1 if "column '" not in message else 4, "--run", runs[run], "--data", *paths)
    assert "there is no such file" in failed(capsys, 3, "--run", runs["pair"], "--data", tmp_path / "none")
    for words, message in (
        (("--column", "a"), "--column is for --data FILE"),
        (("--data", text, "--column", *"abc"), "takes one column"),
    ):
        with pytest.raises(SystemExit):
            main([*map(str, words)])
        assert message in capsys.readouterr().err


def test_class_run_needs_its_column(runs, tmp_path):
    run = open_run(runs["classes"])
    (tmp_path / "a.txt").write_text("fox")
    with pytest.raises(UnfitError, match="classes"):
        find_data(run, [str(tmp_path / "a.txt")])
