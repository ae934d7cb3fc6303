"""The command line: exit codes, JSON, origins, schema, colour, imports, and types of plugins."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from model_factory.yaml_config.errors import ConfigError
from parse_args import main, parse_config, parse_experiment

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.yml"))
ENCODER = "model:\n  model_type: encoder\n  encoder: {d_model: 16, num_layers: 1, num_heads: 2, device: cpu}\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    return subprocess.run([sys.executable, *words], cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.name)
def test_packaged_configs_are_valid(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(config)]) == 0
    assert f"{config}: good" in capsys.readouterr().out
    assert config.read_text().startswith("# yaml-language-server: $schema=")


def test_exit_codes(here: Path) -> None:
    Path("good.yml").write_text(ENCODER)
    Path("bad.yml").write_text(ENCODER.replace("16", "15"))
    assert main(["--config", "good.yml"]) == 0
    assert main(["--config", "bad.yml"]) == 1
    assert main(["--config", "gone.yml"]) == 3
    assert main(["--config", "."]) == 3
    for wrong in ([], ["--config", "good.yml", "--set", "x"], ["--config", "good.yml", "--set", "a..b=1"], ["--nope"]):
        with pytest.raises(SystemExit) as caught:
            main(wrong)
        assert caught.value.code == 2
    assert main(["--config", "good.yml", "--build", "--set", "model.encoder.device=cuda:63"]) == 4


def test_json_lists_problems_of_an_invalid_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.yml").write_text(ENCODER.replace("num_heads", "num_head"))
    assert main(["--config", "bad.yml", "--json"]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    report = json.loads(out)
    assert report["ok"] is False
    assert report["config"] is None
    [error] = report["errors"]
    assert error == {
        "file": "bad.yml",
        "line": 3,
        "column": 41,
        "path": "model.encoder.num_head",
        "code": "unknown_key",
        "message": "unknown key 'num_head'; did you mean 'num_heads'?",
        "suggestion": "num_heads",
    }


def test_misspelt_override_of_a_given_key_is_reported(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("good.yml").write_text(ENCODER)
    Path("child.yml").write_text("extends: good.yml\nmodel: {encoder: {num_head: 2}}\n")
    assert main(["--config", "child.yml"]) == 1
    assert "child.yml:2:19: model.encoder.num_head: unknown key 'num_head'; did you mean 'num_heads'?" in (
        capsys.readouterr().err
    )
    assert main(["--config", "good.yml", "--set", "model.encoder.num_head=2"]) == 1
    assert "did you mean 'num_heads'?" in capsys.readouterr().err


def test_json_holds_the_resolved_config(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("good.yml").write_text(ENCODER)
    assert main(["--config", "good.yml", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["errors"]) == (True, [])
    Path("again.yml").write_text(json.dumps(report["config"]))  # JSON is YAML
    assert parse_experiment("again.yml") == parse_experiment("good.yml")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.name)
def test_print_config_reads_back(config: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(config), "--print-config"]) == 0
    Path("again.yml").write_text(capsys.readouterr().out)
    assert parse_experiment("again.yml") == parse_experiment(config)


def test_print_config_names_origins(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("base.yml").write_text(ENCODER)
    Path("mine.yml").write_text("extends: base.yml\nmodel:\n  global_config:\n    dropout: 0.3\n")
    main(["--config", "mine.yml", "--set", "model.encoder.d_ff=2", "--print-config"])
    origins = {
        line.split(":")[0].strip(): line.split("# ")[1] for line in capsys.readouterr().out.splitlines() if "# " in line
    }
    assert origins["d_model"] == "base.yml:3"
    assert origins["dropout"] == "mine.yml:4 (model.global_config)"
    assert origins["d_ff"] == "--set model.encoder.d_ff=2"
    assert origins["batch_size"] == "default"


def test_parse_config_raises_the_printed_errors(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.yml").write_text(ENCODER.replace("16", "15").replace("num_layers", "num_layer"))
    main(["--config", "bad.yml"])
    printed = capsys.readouterr().err
    with pytest.raises(ConfigError) as caught:
        parse_config("bad.yml")
    assert printed == f"{caught.value}\n{len(caught.value.problems)} problems\n"
    assert {problem.code for problem in caught.value.problems} == {"unknown_key", "relation"}


def test_model_only_and_data_only_limit_the_check(here: Path) -> None:
    Path("half.yml").write_text(ENCODER + "datasets: [{name: nowhere, source: nothing}]\n")
    assert main(["--config", "half.yml", "--model-only"]) == 0
    assert main(["--config", "half.yml", "--data-only"]) == 1
    assert main(["--config", "half.yml"]) == 1


def test_parse_config_returns_none_for_missing_sections(here: Path) -> None:
    Path("model.yml").write_text(ENCODER)
    Path("data.yml").write_text("datasets: [{name: d, source: embedded}]\n")
    assert parse_config("model.yml")[1] is None
    model, datasets = parse_config("data.yml")
    assert model is None
    assert [entry.name for entry in datasets or ()] == ["d"]


def test_check_imports_no_heavy_library() -> None:
    script = (
        "import sys; from parse_args import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'transformers', 'datasets', 'lhotse', 'numpy'} & set(sys.modules); print(code, sorted(heavy))"
    )
    for option in ("--print-config", "--json", "--model-only", "--data-only"):
        for config in ("full_experiment.yml", "speech_experiment.yml"):
            done = run("-c", script, "--config", f"configs/{config}", option)
            assert done.stdout.splitlines()[-1] == "0 []", done.stdout + done.stderr


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc, which is Linux's")
def test_check_uses_little_memory() -> None:
    script = (
        "import sys; from parse_args import main; main(sys.argv[1:]);"
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    done = run("-c", script, "--config", "configs/full_experiment.yml")
    assert int(done.stdout.split("VmHWM:")[1].split()[0]) <= 45_000  # kilobytes


def test_schema_equals_the_packaged_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema == json.loads((ROOT / "configs" / "schema.json").read_text())


def test_schema_from_python_is_complete() -> None:
    """Import only the module of the schema."""
    code = (
        "from model_factory.experiment.json_schema import experiment_schema as e; import json; print(json.dumps(e()))"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((ROOT / "configs" / "schema.json").read_text())


def test_schema_requires_fields_without_default() -> None:
    from model import types
    from model_factory.experiment.json_schema import DEVICE_PATTERN, experiment_schema

    assert types._DEVICE.pattern == DEVICE_PATTERN
    schema = experiment_schema()["properties"]
    encoder = next(
        model for model in schema["model"]["oneOf"] if model["properties"]["model_type"]["const"] == "encoder"
    )
    stack = {"required": ["d_model", "num_layers", "num_heads"]}
    assert encoder["anyOf"] == [{"required": ["global_config"]}, {"properties": {"encoder": stack}}]
    assert schema["training"]["minProperties"] == schema["generation"]["minProperties"] == 1
    lhotse = next(
        entry for entry in schema["datasets"]["items"]["anyOf"] if entry["properties"]["source"]["const"] == "lhotse"
    )
    assert "librispeech" in lhotse["properties"]["name"]["enum"]


def test_model_parser_runs_as_a_module() -> None:
    done = run("-m", "model.parse_model_args", "--config", "configs/example_model.yml")
    assert done.returncode == 0, done.stderr
    assert "translator" in done.stdout


def on_a_terminal(*words: str, **environment: str) -> str:
    """Return the output of a command whose stderr is a terminal."""
    leader, follower = pty.openpty()
    subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        stderr=follower,
        stdout=follower,
        check=False,
    )
    os.close(follower)
    return os.read(leader, 100_000).decode()


def test_colour_only_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    bad = tmp_path / "bad.yml"
    bad.write_text("model:\n")
    words = ("parse_args.py", "--config", str(bad))
    assert "\x1b[" in on_a_terminal(*words, TERM="xterm")
    assert "\x1b[" not in on_a_terminal(*words, TERM="xterm", NO_COLOR="1")
    assert "\x1b[" not in run(*words, TERM="xterm").stderr


PLUGIN = '''
"""A model type from outside the package."""

from model_factory.yaml_config.strict_model import StrictModel
from model.registry import register_model


class PerceptronConfig(StrictModel):
    width: int
    depth: int = 2


@register_model("perceptron", config=PerceptronConfig)
def build(config):
    from torch import nn

    return nn.Sequential(*(nn.Linear(config.width, config.width) for _ in range(config.depth)))
'''


def test_model_type_of_a_plugin(here: Path) -> None:
    Path("perceptron_type.py").write_text(PLUGIN)
    Path("mine.yml").write_text("model: {model_type: perceptron, name: p, width: 8}\n")
    script = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, '.']; from parse_args import main; sys.exit(main(sys.argv[1:]))"
    )
    check = [sys.executable, "-c", script, "--config", "mine.yml", "--plugin", "perceptron_type"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    typo = subprocess.run([*check, "--set", "model.widht=8"], capture_output=True, text=True, check=False)
    assert typo.returncode == 1
    code = "import perceptron_type; from parse_args import parse_config; from model.model_factory import create_model, ModelFactory, load_model;"
    code += "m = create_model(parse_config('mine.yml')[0]); m.save_pretrained('saved'); print(load_model('saved')); print(ModelFactory.list_model_types())"
    built = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:."},
    )
    assert "(1): Linear(in_features=8" in built.stdout, built.stderr
    assert "['encoder', 'decoder', 'encoder_decoder', " in built.stdout
    assert "'perceptron'" in built.stdout


def test_model_type_of_an_entry_point(here: Path) -> None:
    Path("perceptron_type.py").write_text(PLUGIN)
    Path("perceptron-1.dist-info").mkdir()
    Path("perceptron-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: perceptron\nVersion: 1\n")
    Path("perceptron-1.dist-info/entry_points.txt").write_text("[model_factory.models]\nperceptron = perceptron_type\n")
    Path("mine.yml").write_text("model: {model_type: perceptron, width: 8}\n")
    done = run("parse_args.py", "--config", str(here / "mine.yml"), PYTHONPATH=str(here))
    assert done.returncode == 0, done.stderr
    typo = run(
        "parse_args.py", "--config", str(here / "mine.yml"), "--set", "model.model_type=perceptrn", PYTHONPATH=str(here)
    )
    assert "did you mean 'perceptron'?" in typo.stderr


def test_missing_files_are_notes(tmp_path, capsys):
    (tmp_path / "here.txt").write_text("a\n")
    names = f"{{train: [{tmp_path}/here.txt, gone.txt], test: '~nosuchuser/x.txt', validation: '*.txt'}}"
    path = tmp_path / "data.yml"
    path.write_text(f"datasets:\n  - name: lines\n    source: text\n    data_files: {names}\n")
    assert main(["--config", str(path)]) == 0
    out, err = capsys.readouterr()
    assert out.endswith("good: 1 data set (lines)\n")
    at = path.read_text().splitlines()[3].index("gone") + 1
    place = f"note: {path}:4:{at}: datasets.0.data_files.train.1: "
    assert err.startswith(f"{place}'gone.txt' and '~nosuchuser/x.txt' are not there yet; looked for in {os.getcwd()}, ")
    assert err.count("\n") == 1
    assert main(["--config", str(path), "--json"]) == 0
    (note,) = json.loads(capsys.readouterr().out)["notes"]
    assert (note["line"], note["code"]) == (4, "absent_file")
    assert main(["--config", str(path), "--set", f"datasets.0.data_files={{train: {tmp_path}/here.txt}}"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("path", "variable"),
    [
        ("${oc.env:HOME}/data", "${oc.env:HOME}"),
        ("$HOME/out", "$HOME"),
        ("data/$USER", "$USER"),
        ("%APPDATA%/x", "%APPDATA%"),
        ("~/out", None),
        ("a$b/100%/50%", None),
    ],
)
def test_variables_in_paths_are_errors(path, variable, tmp_path, capsys):
    file = tmp_path / "data.yml"
    file.write_text(f"global_config: {{output_dir: '{path}'}}\ndatasets:\n  - {{name: '$a', source: embedded}}\n")
    assert main(["--config", str(file)]) == (1 if variable else 0)
    error = f"{file}:1:29: global_config.output_dir: {variable!r} is not filled in; write ${{env:"
    err = capsys.readouterr().err
    assert err.startswith(error) if variable else err == ""


@pytest.mark.parametrize("key", ["datasets.0.data_files.train", "global_config.corpus_dir", "training.init_from"])
def test_paths_refuse_null_characters(key, capsys):
    assert main(["--config", str(ROOT / "configs/training/translation.yml"), "--set", f'{key}="a\\0b"']) == 1
    assert "must not hold the character \\0, which no path can" in capsys.readouterr().err


def test_unknown_splits_are_not_checked(tmp_path):
    path = tmp_path / "x.yml"
    path.write_text("datasets:\n  - {name: yesno}\ntraining: {train_split: anything}\n")
    assert main(["--config", str(path)]) == 0
    path.write_text("datasets:\n  - {name: docs, source: txt}\ntraining: {dataset: other}\n")
    with pytest.raises(ConfigError) as caught:
        parse_experiment(path)
    assert not any(problem.path.startswith("training") for problem in caught.value.problems)  # nobody knows the data
