"""Checks between sections that open files which the config names, notes, and the trial step of `--build`."""

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import zeros

from model.denoisers.registry import BACKBONES, register_backbone
from model_factory.experiment import training_checks
from model_factory.experiment.config import read_experiment
from model_factory.experiment.task_registry import TASKS, register_task
from model_factory.experiment.training_checks import find_notes
from model_factory.yaml_config.dump import dump
from model_factory.yaml_config.errors import ConfigError
from parse_args import main, parse_experiment

STACK = {"d_model": 16, "num_layers": 1, "num_heads": 2, "device": "cpu"}
DECODER = {"model_type": "decoder", "decoder": STACK}
TEXT = "the quick brown fox jumps over the lazy dog\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text(TEXT * 20)
    return tmp_path


def data(**more: object) -> dict:
    return {"name": "a", "source": "text", "data_files": {"train": "a.txt"}, "sequence_length": 16, **more}


def problems(**sections: object) -> list[str]:
    sections = {"model": DECODER, "datasets": [data()], "training": {"max_steps": 2}} | sections
    Path("case.yml").write_text(dump({name: value for name, value in sections.items() if value is not None}))
    try:
        parse_experiment("case.yml")
    except ConfigError as error:
        return [f"{problem.path}: {problem.message}" for problem in error.problems]
    return []


def write_run(folder: str, model: dict, tokenizer: str = "characters") -> None:
    """Write the files of a run that a check opens."""
    path = Path(folder)
    (path / "tokenizer").mkdir(parents=True)
    (path / "config.yml").write_text(dump({"model": model}))
    (path / "tokenizer" / "vocabulary.json").write_text(json.dumps({"type": tokenizer}))
    save_file({"weight": zeros(2, 3)}, path / "model.safetensors")


def test_tokenizer_path_is_a_folder(here: Path) -> None:
    Path("tok").mkdir()
    Path("tok/tokenizer.json").write_text("{}")
    Path("empty").mkdir()
    tokenizer = {"type": "hugging_face"}
    assert problems(datasets=[data(tokenizer={**tokenizer, "path": "tok"})]) == []
    assert problems(datasets=[data(tokenizer={**tokenizer, "path": "absent"})]) == []
    [message] = problems(datasets=[data(tokenizer={**tokenizer, "path": "tok/tokenizer.json"})])
    assert message.startswith("datasets.0.tokenizer.path: 'tok/tokenizer.json' is a file; try path: ")
    [message] = problems(datasets=[data(tokenizer={**tokenizer, "path": "empty"})])
    assert "the folder 'empty' holds no tokenizer" in message


def test_init_from_adds_a_convolution_and_takes_none_away(here: Path) -> None:
    def network(**keys: object) -> dict:
        backbone = {"type": "ddit", "d_model": 16, "num_layers": 1, "num_heads": 2, **keys}
        return {"model_type": "diffusion", "objective": {"type": "mdlm"}, "backbone": backbone}

    def start(keys: dict, theirs: str) -> list[str]:
        return problems(model=network(**keys), training={"init_from": theirs, "max_steps": 2})

    write_run("plain", network())
    write_run("local", network(local_width=5))
    assert start({"local_width": 5}, "plain") == start({"local_width": 5}, "local") == []
    [message] = start({}, "local")
    assert "weights of another model: its backbone.local_width is 5, and this one has none" in message
    [message] = start({"local_width": 3}, "local")
    assert "its backbone.local_width is 5, and this one's 3" in message


def test_init_from_accepts_equal_shapes(here: Path) -> None:
    write_run("run", DECODER | {"decoder": STACK | {"dropout": 0.3, "vocab_size": 30}})
    assert problems(training={"init_from": "run"}) == []
    assert problems(training={"init_from": "absent"}) == []


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"model_type": "encoder", "encoder": STACK}, "it is of type encoder, and this one of type decoder"),
        ({**DECODER, "decoder": STACK | {"d_model": 32}}, "its decoder.d_model is 32, and this one's 16"),
        ({**DECODER, "decoder": STACK | {"num_layers": 2}}, "its decoder.num_layers is 2, and this one's 1"),
    ],
)
def test_init_from_of_another_shape(model: dict, message: str, here: Path) -> None:
    write_run("run", model)
    [found] = problems(training={"init_from": "run"})
    assert found.startswith("training.init_from: run holds weights of another model: ")
    assert message in found


def test_init_from_with_another_tokenizer(here: Path) -> None:
    write_run("run", DECODER, tokenizer="bytes")
    [message] = problems(training={"init_from": "run"})
    assert message.endswith("a tokenizer of bytes, and this data set's is of characters; try tokenizer: {type: bytes}")


def test_init_from_without_readable_weights(here: Path) -> None:
    write_run("run", DECODER)
    weights = Path("run/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-4])
    [message] = problems(training={"init_from": "run"})
    assert "is no safetensors file, or is cut short" in message
    weights.unlink()
    assert "run has no model.safetensors" in problems(training={"init_from": "run"})[0]
    assert "'a.txt' is a file" in problems(training={"init_from": "a.txt"})[0]


def test_pretrained_backbone_of_another_vocabulary(here: Path) -> None:
    Path("bert").mkdir()
    config = {"model_type": "bert", "vocab_size": 300, "max_position_embeddings": 8}
    Path("bert/config.json").write_text(json.dumps(config))
    model = {
        "model_type": "diffusion",
        "objective": {"type": "mdlm"},
        "backbone": {"type": "hugging_face", "path": "bert"},
    }
    found = problems(model=model, datasets=[data(tokenizer={"type": "bytes"})])
    assert "bert has 8 positions, and sequences have up to 16 tokens; try sequence_length: 8" in found[0]
    assert "bert has a vocabulary of 300 tokens, and the file gives 259" in found[1]


def test_files_without_training_are_not_judged_by_tasks(here: Path) -> None:
    assert problems(model={"model_type": "encoder", "encoder": STACK}, training=None) == []


def test_train_judges_files_without_training_by_its_defaults(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from train import main as train

    problems(model={"model_type": "encoder", "encoder": STACK}, training=None)
    assert train(["--config", "case.yml", "--output", "run"]) == 1
    assert "no task trains a model of type encoder" in capsys.readouterr().err
    assert not Path("run").exists()


def test_idle_evaluation_is_a_note(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert problems(training={"max_steps": 2, "eval_steps": 1}) == []
    assert main(["--config", "case.yml"]) == 0
    assert "note: case.yml:" in (err := capsys.readouterr().err)
    assert "nothing is evaluated: data set 'a' has only the splits train; eval_split names one" in err


def test_build_runs_one_training_step(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert problems() == []
    assert main(["--config", "case.yml", "--build"]) == 0
    assert "one step of language_modelling on 2 rows: loss " in capsys.readouterr().out


def test_unknown_lora_modules_are_refused(here: Path) -> None:
    [message] = problems(training={"lora": {"target_modules": ["to_v", "to_qq"]}})
    assert message.startswith(
        "training.lora.target_modules.1: no linear layer is called to_qq; this model has to_inner"
    )
    assert message.endswith("did you mean 'to_q'?")
    model = {"model_type": "diffusion", "objective": {"type": "mdlm"}, "backbone": {"type": "ddit", **STACK}}
    assert problems(model=model, training={"lora": {"target_modules": ["to_qkv"]}}) == []
    assert (
        "no linear layer is called to_q;" in problems(model=model, training={"lora": {"target_modules": ["to_q"]}})[0]
    )


def test_each_stage_trains_an_adapted_layer(here: Path) -> None:
    stack = {"type": "performer", "d_model": 16, "num_layers": 1, "num_heads": 2}
    model = {"model_type": "latent_diffusion", "encoder": stack, "decoder": stack, "denoiser": {"type": "linear"}}
    whole = [data(documents="line", rows="whole", too_long="cut")]
    [message] = problems(model=model, datasets=whole, training={"max_steps": 2, "lora": {"target_modules": ["to_q"]}})
    assert "the stage diffusion would train nothing: its layers are 0, 2, 4, first, second; name one of them" in message
    chosen = {"target_modules": ["to_q", "first"]}
    assert problems(model=model, datasets=whole, training={"max_steps": 2, "lora": chosen}) == []


def test_lora_modules_of_a_pretrained_backbone(here: Path) -> None:
    Path("bert").mkdir()
    Path("bert/config.json").write_text(json.dumps({"model_type": "bert", "vocab_size": 300}))
    names = ("bert.layer.0.query.weight", "bert.embeddings.word_embeddings.weight")
    save_file({name: zeros(2, 2) for name in names}, "bert/model.safetensors")
    backbone = {"type": "hugging_face", "path": "bert"}
    model = {"model_type": "diffusion", "objective": {"type": "mdlm"}, "backbone": backbone, "vocab_size": 300}
    assert problems(model=model, training={"lora": {"target_modules": ["query", "lm_head"]}}) == []
    [message] = problems(model=model, training={"lora": {"target_modules": ["quary"]}})
    assert message.endswith("no linear layer of bert is called quary; it has query; did you mean 'query'?")


def test_pretrained_backbone_with_a_learned_tokenizer(here: Path) -> None:
    Path("bert").mkdir()
    Path("bert/config.json").write_text(json.dumps({"model_type": "bert", "vocab_size": 300}))
    backbone = {"type": "hugging_face", "path": "bert"}
    model = {"model_type": "diffusion", "objective": {"type": "mdlm"}, "backbone": backbone}
    [message] = problems(model=model)
    assert "bert has a vocabulary of 300 tokens, and the file gives a tokenizer of characters, which takes" in message
    assert problems(model=model | {"vocab_size": 300}) == []


def test_build_names_unknown_lora_modules(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    monkeypatch.setattr("model_factory.experiment.training_checks.linear_layers", lambda model, task: None)
    assert problems(training={"lora": {"target_modules": ["nope"]}}) == []  # as with a custom attention core
    assert main(["--config", "case.yml", "--build"]) == 4
    assert "no linear layer is called nope; this model has" in capsys.readouterr().err


def test_build_finds_rows_longer_than_the_model_reads(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.txt").write_text("short\n" * 5 + TEXT * 3 + "short\n")
    model = {"model_type": "decoder", "decoder": STACK | {"max_length": 16}}
    entry = data(documents="line", rows="whole")
    del entry["sequence_length"]
    assert problems(model=model, datasets=[entry]) == []
    assert main(["--config", "case.yml", "--build"]) == 4
    assert "max_length" in capsys.readouterr().err


PACKED = {"rows": "packed", "document_ids": True}
DIFFUSION = {"model_type": "diffusion", "objective": {"type": "mdlm"}}


def test_documents_are_isolated_or_refused(here: Path) -> None:
    for attention in ("softmax", "causal_linear"):
        model = {**DECODER, "decoder": {**STACK, "attention_type": attention}}
        assert problems(model=model, datasets=[data(**PACKED, position_ids=True)]) == []
    for backbone in ({"type": "ddit", **STACK}, {"type": "performer", **STACK, "attention_type": "linear"}):
        assert problems(model={**DIFFUSION, "backbone": backbone}, datasets=[data(**PACKED)]) == []
    register_backbone("no-documents")(lambda config, vocab_size: None)
    try:
        model = {**DIFFUSION, "backbone": {"type": "no-documents"}}
        [message] = problems(model=model, datasets=[data(**PACKED)])
        assert problems(model=model, datasets=[data(rows="packed")]) == []
    finally:
        BACKBONES._entries.pop("no-documents")
    assert message == (
        "datasets.0.document_ids: the backbone no-documents does not isolate the documents of packed rows: it is "
        "registered without takes_documents=True; try document_ids: false"
    )


def test_conditional_rows_need_levels_of_tokens_unless_noise_is_absorbing(here: Path) -> None:
    Path("b.txt").write_text(TEXT)
    pairs = data(data_files={"train": {"source": "a.txt", "target": "b.txt"}})
    register_backbone("row-levels", token_levels=False)(lambda config, vocab_size: None)
    register_backbone("tried")(lambda config, vocab_size: None)
    register_task("of-pairs", columns=("source_ids", "target_ids"), model_types=("diffusion",))(type("OfPairs", (), {}))  # type: ignore[type-var]
    late = {"type": "bert", "hidden_size": 16, "num_layers": 1, "num_heads": 2, "time_injection": "output"}
    theorem = "under {} noise only its noise level, 0, shows the network that a given token is clean, and "

    def found(backbone: dict, process: str = "uniform", **more: object) -> list[str]:
        objective = {"absorbing": "mdlm", "uniform": "udlm", "hybrid": "gidd"}[process]
        model = {"model_type": "diffusion", "process": {"type": process}, "objective": {"type": objective}}
        training = {"max_steps": 2, "task": "of-pairs"}
        return problems(**{"model": {**model, "backbone": backbone}, "datasets": [pairs], "training": training} | more)

    try:
        for process in ("uniform", "hybrid"):
            assert found({"type": "row-levels"}, process) == [
                f"model.backbone.type: {theorem.format(process)}backbone row-levels is registered with token_levels=False: "
                "it takes one level for a row, so it would not learn p(response | given tokens); try backbone: {type: "
                "performer or ddit or bert or hugging_face}"
            ]
            assert found(late, process) == [
                f"model.backbone.time_injection: {theorem.format(process)}time_injection output adds the level after all "
                "attention, so no token sees that of another, so it would not learn p(response | given tokens); try "
                "time_injection: adaln"
            ]
        for backbone in ({"type": "row-levels"}, late):
            assert found(backbone, "absorbing") == []
            assert found(backbone, datasets=[data()], training={"max_steps": 2}) == []
        assert found({"type": "tried"}) == found({**late, "time_injection": "input"}) == []
    finally:
        for registry, name in ((BACKBONES, "row-levels"), (BACKBONES, "tried"), (TASKS, "of-pairs")):
            registry._entries.pop(name)


def test_positions_of_documents_need_isolated_documents(here: Path) -> None:
    [message] = problems(datasets=[data(rows="packed", position_ids=True)])
    assert message == (
        "datasets.0.position_ids: positions begin at 0 again with each document only where documents are isolated; add "
        "document_ids: true, or position_ids: false"
    )
    assert problems(datasets=[data(rows="packed", position_ids=True)], training=None) == []


BERT = {"type": "bert", "hidden_size": 16, "num_layers": 1, "num_heads": 2, "max_length": 8, "device": "cpu"}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"model": {**DIFFUSION, "vocab_size": 9, "length": 20, "backbone": BERT}, "datasets": None},
            "sequences have 20 tokens, and the backbone reads at most 8; try length: 8, or max_length: 20",
        ),
        (
            {"model": {**DIFFUSION, "backbone": BERT}},
            "rows have up to 16 tokens, and the backbone reads at most 8; try sequence_length: 8, or max_length: 16",
        ),
        (
            {
                "model": {"model_type": "decoder", "decoder": {**STACK, "max_length": 8}},
                "datasets": [data(sequence_length=8), data(name="b")],
            },
            "rows have up to 16 tokens, and the decoder reads at most 8; try sequence_length: 8, or max_length: 16",
        ),
    ],
)
def test_rows_and_sequences_longer_than_the_model_reads_are_refused(here: Path, sections: dict, message: str) -> None:
    [found] = problems(training=None, **sections)
    assert found.partition(": ")[2] == message


def test_missing_logger_is_noted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(training_checks, "find_spec", lambda package: None)
    path = tmp_path / "a.yml"
    path.write_text(
        dump({"model": DECODER, "datasets": [data()], "training": {"report_to": ["wandb"], "run_name": "a"}})
    )
    [note] = find_notes(read_experiment(path).context)
    assert note.path == "training.report_to"
    assert "wandb is not installed here" in note.message
    assert "pip install 'model-factory[wandb]'" in note.message
