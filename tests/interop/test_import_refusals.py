"""Sources that are not read: each is refused with a message that names the file and the reason; no code of theirs runs."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.checkpoints.errors import PublishedError
from model.hub import HubError, load_config_from_hub
from model.parse_model_args import parse_model_config
from model_factory.cli.main import main
from model_factory.training.errors import FolderInUseError
from model_factory.training.run.folder import load_run
from model_factory.yaml_config.errors import ConfigValueError
from model_factory.yaml_config.exit_codes import UNREADABLE, USAGE
from tests.interop.published import CONFIGS, ROWS, hub_names, published_state, run_import, write_folder


def edit(folder: Path, **tensors: Any) -> None:
    """Replace tensors of a folder's weights; None removes one."""
    path = folder / "model.safetensors"
    found = {**load_file(path), **tensors}
    save_file({name: tensor for name, tensor in found.items() if tensor is not None}, path)


def refused(folder: Path, match: str, **options: Any) -> None:
    output = folder.parent / "run"
    with pytest.raises(PublishedError, match=match):
        run_import(folder, output, **options)
    assert not output.exists()


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("mdlm", {"model_type": None}, "says neither model_type nor"),
        ("gidd", {"timestep_cond_dim": None}, "without timestep_cond_dim is not GIDD's network"),
        ("mdlm", {"model_type": "mdml"}, "'mdml' is no diffusion model that is read; did you mean mdlm"),
        ("gidd", {"model_type": "gidd"}, "'gidd' is GIDD-unif, whose network has soft-capped attention"),
        (
            "gidd",
            {"model_type": "diffusion_gemma"},
            "'diffusion_gemma' is DiffusionGemma, whose decoder needs the cache",
        ),
        ("mdlm", {"model_type": "gpt2"}, r"backbone: \{type: hugging_face"),
        ("mdlm", {"causal": True}, "causal is true: an autoregressive baseline"),
        ("bd3lm", {"adaln": False}, "adaln is false"),
        ("bd3lm", {"block_size": None}, "lacks block_size"),
        ("mdlm", {"n_heads": 3}, "3 heads, which do not divide the width 16"),
        ("mdlm", {"n_heads": None}, "number of heads is not stated"),
        ("mdlm", {"n_heads": "2"}, "n_heads is '2'; expected a whole number"),
        ("mdlm", {"model_length": None}, "length of sequences is not stated"),
        ("mdlm", {"cond_dim": 7}, "cond_dim 7 in the config and 6 in the tensors"),
        ("mdlm", {"n_blocks": 3}, "number of layers 3 in the config and 2 in the tensors"),
        ("mdlm", {"vocab_size": 13}, "vocabulary size 13 in the config and 12 in the tensors"),
        ("sedd", {"tokens": 12}, "vocabulary size 13 in the config and 12 in the tensors"),
        ("sedd", {"graph": {"type": "banded"}}, "graph.type is 'banded'"),
        ("sedd", {"noise": {"type": "cosine"}}, "noise.type is 'cosine'"),
        ("udlm", {"time_conditioning": False}, "uniform noise and time_conditioning false"),
        ("gidd", {"vocab_size": 129}, "vocabulary size 129 in the config and 128 in the tensors"),
    ],
)
def test_config_that_does_not_fit_is_refused(tmp_path: Path, family: str, changes: Any, message: str) -> None:
    write_folder(tmp_path / "source", family, **changes)
    refused(tmp_path / "source", message)


AT = "backbone.blocks.1."


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({f"{AT}norm2.weight": None}, "missing: blocks.1.norm2.weight"),
        ({"backbone.extra.weight": torch.ones(1)}, "not known: extra.weight"),
        ({"backbone.blocks.2.norm1.weight": torch.ones(16)}, "number of layers 2 in the config and 3 in the tensors"),
        (
            {"backbone.blocks.99999999999.norm1.weight": torch.ones(16)},
            "its blocks are 0, 1, 99999999999; expected 0 to 2",
        ),
        ({f"{AT}norm1.weight": torch.ones(17)}, r"blocks.1.norm1.weight is \[17\] instead of \[16\]"),
        ({f"{AT}norm1.weight": torch.full((16,), torch.nan)}, "NaN or infinite"),
        ({"backbone.logit_bias": torch.ones(ROWS)}, "logit_bias is not 0"),
        ({"backbone.rotary_emb.inv_freq": torch.ones(4)}, "not of rotary positions with the base 10,000"),
        ({f"{AT}norm1.weight": torch.ones(16).to(torch.float8_e4m3fn)}, "dtype F8_E4M3"),
        ({"backbone.vocab_embed.embedding": None}, "has no tensor vocab_embed.embedding"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path: Path, tensors: Any, message: str) -> None:
    write_folder(tmp_path / "source", "mdlm")
    edit(tmp_path / "source", **tensors)
    refused(tmp_path / "source", message)


def test_zero_logit_bias_is_left_out(tmp_path: Path) -> None:
    write_folder(tmp_path / "source", "gidd")
    edit(tmp_path / "source", logit_bias=torch.zeros(128))
    run_import(tmp_path / "source", tmp_path / "run")


@pytest.mark.parametrize(
    ("family", "mask", "message"),
    [
        ("mdlm", ROWS, "the mask is token 12"),
        ("udlm", 3, "uniform noise"),
        ("sedd", 3, "the mask of sedd is its last token, 11"),
    ],
)
def test_mask_that_does_not_fit_is_refused(tmp_path: Path, family: str, mask: int, message: str) -> None:
    write_folder(tmp_path / "source", family)
    refused(tmp_path / "source", message, mask_id=mask)


def shards(folder: Path, names: dict[str, str] | None = None) -> None:
    """Divide a folder's weights into two shards with an index, in which `names` replaces file names."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = {name: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(tensors)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name, at in files.items() if at == file}, folder / file)
    listed = {name: (names or {}).get(file, file) for name, file in files.items()}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))


def test_sharded_weights_are_read_in_their_dtype(tmp_path: Path) -> None:
    state = {name: tensor.bfloat16() for name, tensor in published_state("mdlm").items()}
    write_folder(tmp_path / "source", "mdlm", state)
    shards(tmp_path / "source")
    found = run_import(tmp_path / "source", tmp_path / "run")
    tensors = load_file(tmp_path / "run/model.safetensors")
    assert torch.equal(tensors["network.head.bias"], state["output_layer.linear.bias"])
    assert "in bfloat16" in dict(found.facts)["parameters"]
    model = load_run(tmp_path / "run", device="cpu").model
    assert model.denoise(torch.zeros(1, 4, dtype=torch.long), None).dtype == torch.bfloat16


FIRST = "model-00001-of-00002.safetensors"


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (f"../{FIRST}", "shards are .safetensors files of that folder alone"),
        ("pytorch_model-00001.bin", "shards are .safetensors files of that folder alone"),
        ("model-3.safetensors", "no such file, which model.safetensors.index.json names"),
        ("model-00002-of-00002.safetensors", "its tensors are not those of model.safetensors.index.json"),
    ],
)
def test_shards_that_do_not_fit_are_refused(tmp_path: Path, named: str, message: str) -> None:
    write_folder(tmp_path / "source", "mdlm")
    shards(tmp_path / "source", {FIRST: named})
    shutil.copy(tmp_path / "source" / FIRST, tmp_path)
    refused(tmp_path / "source", message)


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "source", "mdlm")
    path = tmp_path / "source/model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refused(tmp_path / "source", "damaged or not a safetensors file")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"README.md": "# A model"}, "has no weights: neither model.safetensors"),
        ({"adapter_config.json": "{}", "adapter_model.safetensors": ""}, "holds a LoRA adapter"),
        ({"model.gguf": ""}, "holds a GGUF file"),
        ({"config.json": "{}", "best.ckpt": ""}, "give a file instead of the folder: .*best.ckpt"),
    ],
)
def test_folders_of_other_things_are_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    (tmp_path / "source").mkdir()
    for name, text in files.items():
        (tmp_path / "source" / name).write_text(text)
    refused(tmp_path / "source", message)


def test_no_code_of_a_folder_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "marker"
    source = tmp_path / "source"
    code = {"AutoConfig": "evil.Config", "AutoModelForMaskedLM": "evil.Model", "AutoTokenizer": ["evil.Tok", None]}
    write_folder(source, "mdlm", auto_map=code)
    (source / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Config: pass\nclass Tok: pass\n")
    monkeypatch.chdir(source)
    run_import(source, tmp_path / "run")
    (source / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Tok", "auto_map": code}))
    with pytest.raises(ValueError, match=r"tokenizer folder .* cannot be read"):
        run_import(source, tmp_path / "other")
    assert not marker.exists()
    assert not (tmp_path / "other").exists()


def test_output_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "source", "mdlm")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes.txt").write_text("mine")
    with pytest.raises(FolderInUseError, match="is not empty"):
        run_import(tmp_path / "source", tmp_path / "run")
    assert main(["import", "--from", str(tmp_path / "source"), "--output", str(tmp_path / "run")]) == USAGE


@pytest.mark.parametrize("name", ["./nowhere", "nowhere", "owner/model", "owner/model@main"])
def test_source_that_is_not_there_is_an_input_error(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    assert main(["import", "--from", name, "--output", "run"]) == UNREADABLE
    message = capsys.readouterr().err
    wanted = "no such folder or file" if "owner" not in name else "the environment sets HF_HUB_OFFLINE"
    assert wanted in message
    assert not Path("run").exists()


@pytest.mark.parametrize("family", ["sedd", "mdlm", "gidd", "llada", "Dream", "sdar"])
def test_published_folder_as_backbone_names_the_import(tmp_path: Path, family: str) -> None:
    write_folder(tmp_path / "source", family if family in CONFIGS else "mdlm")
    if family not in CONFIGS:
        (tmp_path / "source/config.json").write_text(json.dumps({"model_type": family, "auto_map": {}}))
    backbone = {"type": "hugging_face", "path": str(tmp_path / "source")}
    section = {"model_type": "diffusion", "objective": {"type": "mdlm"}, "backbone": backbone}
    (tmp_path / "file.yml").write_text(json.dumps({"model": section}))
    with pytest.raises(ConfigValueError, match=f"model-factory import --from {tmp_path}/source --output"):
        parse_model_config(tmp_path / "file.yml")


def test_published_name_on_the_hub_names_the_import(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llada", "auto_map": {"AutoConfig": "x.Y"}}))
    with pytest.raises(HubError, match=f"make a run of it: model-factory import --from {tmp_path} --output"):
        load_config_from_hub(str(tmp_path), "give another one")


def test_torch_names_of_prefixes_are_known(tmp_path: Path) -> None:
    state = published_state("sedd")
    write_folder(tmp_path / "source", "sedd")
    save_file(
        {f"module.{name}": x for name, x in hub_names("sedd", state).items()}, tmp_path / "source/model.safetensors"
    )
    run_import(tmp_path / "source", tmp_path / "run")
