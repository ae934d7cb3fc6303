"""`generate.py --input`: a text for each line, whatever the batches, and whether interrupted or not."""

import io
import json
import shutil
import sys

import pytest
from safetensors.torch import load_file, save_file

from model_factory.cli.generate import main
from model_factory.evaluation.run import open_run
from model_factory.evaluation.sampling import line_files
from model_factory.evaluation.sampling.draw import draw
from model_factory.evaluation.sampling.line_files import LineWriter, open_output, read_lines
from model_factory.evaluation.sampling.lines import Prepared, make_batches, text_sampler
from model_factory.evaluation.sampling.sample import Request
from model_factory.training.errors import InputFileError, UnfitError
from tests.evaluation.untrained_runs import BACKBONE, DECODER, MDLM, PAIR, STACK, make_run, pair_data, text_data

LINES = ["the quick", "fox", "lazy dog, and", "", "over the", "mind", "a", "does not mind"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    short = {**DECODER, "decoder": {**STACK, "max_length": 20}}
    return {
        "pair": make_run(folder / "pair", PAIR, pair_data(folder / "pair"), "translation"),
        "decoder": make_run(folder / "decoder", DECODER, text_data(folder / "decoder"), "language_modelling"),
        "short": make_run(
            folder / "short", short, text_data(folder / "short", sequence_length=20), "language_modelling"
        ),
        "mdlm": make_run(folder / "mdlm", MDLM, text_data(folder / "mdlm"), "diffusion"),
        "holes": make_run(folder / "holes", MDLM, hole_data(folder / "holes"), "diffusion"),
        "continued": make_run(folder / "continued", DECODER, hole_data(folder / "continued"), "language_modelling"),
        "targets": make_run(folder / "targets", MDLM, canvases(folder / "targets"), "conditional_diffusion"),
        "encoded": make_run(
            folder / "encoded",
            {
                **MDLM,
                "backbone": {**BACKBONE, "type": "ddit", "encoder": {"d_model": 16, "num_layers": 1, "num_heads": 2}},
            },
            canvases(folder / "encoded"),
            "conditional_diffusion",
        ),
    }


def canvases(folder):
    return pair_data(folder, sequence_length=32)


def hole_data(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "short.txt").write_text(
        "\n".join(["the quick brown fox", "over the lazy dog, and", "does not mind at all"])
    )
    data = {"name": "tiny", "source": "text", "data_files": {"train": str(folder / "short.txt")}, "documents": "line"}
    return [{**data, "sequence_length": 32, "infill": {}}]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.txt"
    path.write_text("".join(f"{line}\n" for line in LINES))
    return path


def written(capsys, *words, code=0):
    assert main([*map(str, words)]) == code
    return capsys.readouterr()


@pytest.mark.parametrize("kind", ["pair", "decoder", "short", "mdlm", "targets", "encoded", "holes", "continued"])
def test_texts_do_not_depend_on_batches(runs, source, capsys, kind):
    one, three, all_ = (
        written(capsys, "--run", runs[kind], "--input", source, "--seed", 3, "--batch-size", size).out
        for size in (1, 3, 64)
    )
    assert one == three == all_
    texts = one.split("\n")
    assert len(texts) == len(LINES) + 1
    assert texts[3] == ""
    assert len(set(texts)) > len(LINES) - 2
    assert one != written(capsys, "--run", runs[kind], "--input", source, "--seed", 4).out


def test_greedy_texts_are_those_of_single_prompts(runs, source, capsys):
    for kind in ("pair", "decoder"):
        greedy = "generation.temperature=0", "generation.num_samples=1"
        found = written(capsys, "--run", runs[kind], "--input", source, "--set", greedy[0]).out.split("\n")
        run = open_run(runs[kind], greedy)
        prompts = [line for line in LINES if line]
        expected = [sample.text for sample in draw(run, Request(tuple(prompts))).samples]
        assert [text for line, text in zip(LINES, found, strict=False) if line] == expected


def test_holes_are_filled_and_the_rest_is_kept(runs, tmp_path, capsys):
    (tmp_path / "holes.txt").write_text("the [[4]] fox jumps\nquick [[2]]wn\n")
    out = written(capsys, "--run", runs["mdlm"], "--input", tmp_path / "holes.txt", "--json").out
    first, second = map(json.loads, out.splitlines())
    assert first["output"].startswith("the ")
    assert first["output"][8:].startswith(" fox jumps")
    assert second["output"][8:].startswith("wn")
    assert [first["line"], second["input"]] == [1, "quick [[2]]wn"]


def test_lines_without_a_text_are_named_and_the_rest_is_written(runs, tmp_path, capsys):
    path = tmp_path / "in.txt"
    path.write_bytes("\ufeffthe quick\r\n".encode() + b"bad \xff\n" + b"x" * 30 + b"\nfox")
    out, err = written(capsys, "--run", runs["short"], "--input", path, code=1)
    texts = out.split("\n")
    assert len(texts) == 5
    assert texts[1] == texts[2] == ""
    assert texts[0]
    assert texts[3]
    assert f"{path}:2: byte 0xff at column 5 is not UTF-8" in err
    assert f"{path}:3: the line takes 30 tokens, and with max_length 20 at most 19 can be continued" in err
    assert "2 of 4 lines have no text in the output: 2, 3" in err
    plain = tmp_path / "plain.txt"
    plain.write_text("the quick\n")
    assert written(capsys, "--run", runs["short"], "--input", plain).out == texts[0] + "\n"


def test_unknown_characters_of_a_line_are_noted_once(runs, tmp_path, capsys):
    path = tmp_path / "in.txt"
    path.write_text("the fox\nmind \u20ac\n")
    assert main(["--run", str(runs["decoder"]), "--input", str(path), "--output", str(tmp_path / "out.txt")]) == 0
    said = capsys.readouterr().err
    assert said.count("in.txt:2: note: the line has characters that the run's tokenizer does not know") == 1
    assert f"{tmp_path / 'out.txt'}: 2 lines written" in said
    assert len((tmp_path / "out.txt").read_text().splitlines()) == 2


def test_mistyped_hole_is_named(runs, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("the fox\nthe [[3.] of\n")
    err = written(capsys, "--run", runs["mdlm"], "--input", tmp_path / "in.txt", code=1).err
    assert "in.txt:2: the prompt has '[[3.]', and a hole of 12 tokens is [[12]]" in err


def test_standard_input(runs, source, capsys, monkeypatch):
    from_file = written(capsys, "--run", runs["pair"], "--input", source).out
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(source.read_bytes())))
    assert written(capsys, "--run", runs["pair"], "--input", "-").out == from_file
    assert not sys.stdin.closed


@pytest.mark.parametrize("kind", ["pair", "mdlm"])
def test_interrupted_output_is_resumed(runs, tmp_path, capsys, monkeypatch, kind):
    monkeypatch.setattr(line_files, "WINDOW", 5)
    source = tmp_path / "in.txt"
    source.write_text("".join(f"{line}\n" for line in LINES * 2) + "the end")
    whole, parts = tmp_path / "whole.txt", tmp_path / "parts.txt"
    base = ("--run", runs[kind], "--input", source, "--batch-size", 2, "--output")
    written(capsys, *base, whole)
    run = open_run(runs[kind])
    sampler, calls = text_sampler(run, Request()), []
    generate = type(sampler).generate

    def interrupted(self, lines):
        if len(calls) % 3 == 2:
            calls.append(None)
            raise KeyboardInterrupt
        calls.append(lines)
        return generate(self, lines)

    monkeypatch.setattr(type(sampler), "generate", interrupted)
    codes = [main([*map(str, base), str(parts), "--resume"]) for _ in range(12)]
    capsys.readouterr()
    assert codes[0] == 130
    assert codes[-1] == 0
    assert parts.read_text() == whole.read_text()
    assert parts.read_text().count("\n") == len(LINES) * 2 + 1


def test_resume_checks_input_and_settings(runs, source, tmp_path, capsys):
    output = tmp_path / "out.txt"
    base = ("--run", runs["pair"], "--output", output, "--input")
    written(capsys, *base, source)
    before = output.read_text()
    assert (
        f"{output} exists; give another --output, or continue it by --resume"
        in written(capsys, *base, source, code=2).err
    )
    written(capsys, *base, source, "--resume")
    assert output.read_text() == before
    assert (
        "generation.temperature was 1.0 and is 0.0"
        in written(capsys, *base, source, "--resume", "--set", "generation.temperature=0", code=1).err
    )
    weights = tmp_path / "weights"
    shutil.copytree(runs["pair"], weights)
    changed = load_file(weights / "model.safetensors")
    save_file({name: value + 1 for name, value in changed.items()}, weights / "model.safetensors")
    again = ("--run", weights, "--output", output, "--input", source, "--resume")
    assert "was begun with others: the weights of the run" in written(capsys, *again, code=1).err
    other = tmp_path / "other.txt"
    for text in ("another\n" * len(LINES), "the quick\n", ""):
        other.write_text(text)
        assert "others than those that" in written(capsys, *base, other, "--resume", code=1).err
        assert output.read_text() == before
    other.write_text(source.read_text() + "one more\n")
    written(capsys, *base, other, "--resume")
    assert output.read_text().startswith(before)
    assert output.read_text().count("\n") == len(LINES) + 1


def test_resume_of_a_strange_file(runs, source, tmp_path, capsys):
    output = tmp_path / "out.txt"
    output.write_text("mine\n")
    base = ("--run", runs["pair"], "--output", output, "--input", source, "--resume")
    assert "exists without" in written(capsys, *base, code=2).err
    line_files.progress_file(output).write_text("{}")
    assert "does not hold the progress of an output" in written(capsys, *base, code=3).err
    assert output.read_text() == "mine\n"


def test_texts_appear_as_batches_finish_and_windows_bound_memory(monkeypatch):
    monkeypatch.setattr(line_files, "WINDOW", 4)
    events = []

    class Sampler:
        def prepare(self, number, value):
            return Prepared(number, len(value), value)

        def generate(self, lines):
            events.append(("batch", [line.number for line in lines]))
            return [line.content.upper() for line in lines]

    def items():
        for number, text in enumerate(["aaaa", "b", "cc", "ddd", "e"], 1):
            events.append(("read", number))
            yield line_files.Item(number, f"x:{number}", text.encode(), text)

    output = open_output(None, {}, resume=False)
    output.stream = io.StringIO()
    LineWriter(Sampler(), output, lambda item, text, problem: text + "\n", 2, print).run(items())
    assert output.stream.getvalue() == "AAAA\nB\nCC\nDDD\nE\n"
    assert [event[1] for event in events if event[0] == "batch"] == [[2, 3], [4, 1], [5]]
    assert [event[0] for event in events] == ["read"] * 4 + ["batch"] * 2 + ["read", "batch"]


def test_batches_have_one_group():
    lines = [Prepared(1, 5, None, 3), Prepared(2, 1, None, 8), Prepared(3, 2, None, 8), Prepared(4, 1, None, 3)]
    assert [[line.number for line in batch] for batch in make_batches(lines, 3)] == [[2, 3], [4, 1]]


def test_line_that_is_too_long_to_read(tmp_path, monkeypatch):
    monkeypatch.setattr(line_files, "LONG_LINE", 8)
    (tmp_path / "in.txt").write_text("123456\n12345678901234567890\nabc\n1234567\n")
    items = list(read_lines(str(tmp_path / "in.txt")))
    assert [item.value for item in items] == ["123456", None, "abc", "1234567"]
    assert items[1].problem == "the line has more than 8 bytes; split it"


def test_wrong_options(runs, source, capsys, tmp_path):
    base = ("--run", runs["pair"])
    for words, message in (
        (("--output", "x"), "--output is for --input FILE"),
        (("--input", source, "--prompt", "a"), "--prompt and --input exclude each other"),
        (("--input", source, "--num-samples", 2), "--num-samples and --input exclude each other"),
        (("--input", source, "--resume"), "add --output FILE"),
        (("--input", source, "--batch-size", 0), "at least 1"),
        (("--format", "stm"), "--format is for --input FILE"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*map(str, (*base, *words))])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    assert "--length is for diffusion models" in written(capsys, *base, "--input", source, "--length", 4, code=1).err
    assert "there is no such file" in written(capsys, *base, "--input", tmp_path / "none.txt", code=3).err
    assert "is a folder" in written(capsys, *base, "--input", tmp_path, code=3).err


def test_latent_texts_do_not_depend_on_batches(latent_run, source, capsys):
    one, two = (written(capsys, "--run", latent_run, "--input", source, "--batch-size", size).out for size in (1, 4))
    assert one == two
    assert one.count("\n") == len(LINES)


def test_run_that_cannot_generate(runs):
    run = open_run(runs["pair"])
    object.__setattr__(run.config.training, "task", "sequence_classification")
    with pytest.raises(UnfitError, match="cannot generate"):
        text_sampler(run, Request())


def test_unreadable_file(tmp_path):
    (tmp_path / "in.txt.gz").write_bytes(b"not gzip")
    with pytest.raises(InputFileError, match="cannot be read"):
        list(read_lines(str(tmp_path / "in.txt.gz")))


def test_source_longer_than_those_of_the_pairs_is_named(runs, tmp_path, capsys):
    (tmp_path / "in.txt").write_text(f"{'x' * 31}\nthe fox\n")
    out, err = written(capsys, "--run", runs["targets"], "--input", tmp_path / "in.txt", code=1)
    assert "in.txt:1: the source takes 33 tokens with its ends, and those of the run's pairs at most 32" in err
    assert out.startswith("\n")
    assert out.split("\n")[1]
