"""Pickled checkpoints: read only when asked for, without running anything, with the moving average by order."""

import os
import pickle
import shutil
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from model.checkpoints.errors import PublishedError
from model.checkpoints.pickles import MAX_PICKLE, Archive, StoredTensor, list_inert_names, plain_values
from tests.interop.published import CONFIGS, hub_names, published_state, run_import, write_folder
from tests.real_data import real_data


class Evil:
    """Object whose pickle calls os.system when the stock reader loads it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


class Node:
    """Stand-in for a node of OmegaConf: a value under `_val`, or a mapping under `_content`."""

    def __init__(self, value: Any) -> None:
        is_mapping = isinstance(value, dict)
        key = "_content" if is_mapping else "_val"
        self.__dict__ = {key: {k: Node(v) for k, v in value.items()} if is_mapping else value, "_parent": None}


def lightning(path: Path, *, averages: int | None = None, shape_off: bool = False, **extra: Any) -> dict[str, Any]:
    """Write a Lightning checkpoint of MDLM with its config inside; return the averaged tensors by name."""
    state = published_state("mdlm")
    average = {name: tensor + 1 for name, tensor in state.items()}
    shadow = list(average.values())[:averages]
    if shape_off:
        shadow[3] = shadow[3][:1]
    sizes = {"hidden_size": 16, "cond_dim": 6, "n_blocks": 2, "n_heads": 2, "length": 8, "dropout": 0.1}
    config = {"parameterization": "subs", "diffusion": "absorbing_state", "time_conditioning": False, "model": sizes}
    content = {
        "state_dict": OrderedDict(hub_names("mdlm", state)),
        "ema": {"decay": 0.9999, "num_updates": 7, "shadow_params": shadow},
        "hyper_parameters": {"config": Node(config), "tokenizer": Node("x")},
        "loops": defaultdict(list),
        **extra,
    }
    torch.save(content, path)
    return average


def test_lightning_checkpoint_gives_moving_average_by_order(tmp_path: Path) -> None:
    average = lightning(tmp_path / "best.ckpt")
    found = run_import(tmp_path / "best.ckpt", tmp_path / "run", allow_pickle=True)
    tensors = load_file(tmp_path / "run/model.safetensors")
    assert torch.equal(tensors["network.embedding.weight"], average["vocab_embed.embedding"])
    assert torch.equal(tensors["network.layers.1.attention.to_out.weight"], average["blocks.1.attn_out.weight"])
    assert torch.equal(tensors["network.head.bias"], average["output_layer.linear.bias"])
    assert dict(found.facts)["weights"].startswith("moving average (decay 0.9999, 7 updates)")
    assert any("Node" in note and "nothing of it was imported or run" in note for note in found.notes)


def test_lightning_checkpoint_gives_raw_weights_when_asked(tmp_path: Path) -> None:
    lightning(tmp_path / "best.ckpt", averages=3)
    run_import(tmp_path / "best.ckpt", tmp_path / "run", allow_pickle=True, use_average=False)
    tensors = load_file(tmp_path / "run/model.safetensors")
    assert torch.equal(tensors["network.head.bias"], published_state("mdlm")["output_layer.linear.bias"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"averages": -1}, "moving average has 29 tensors, and the network 30 parameters"),
        ({"shape_off": True}, "moving average of sigma_map.mlp.2.weight is"),
        ({"ema": {"shadow_params": 3}}, "no list shadow_params"),
    ],
)
def test_moving_average_of_another_network_is_refused(tmp_path: Path, changes: Any, message: str) -> None:
    lightning(tmp_path / "best.ckpt", **changes)
    with pytest.raises(PublishedError, match=message.replace("sigma", "backbone.sigma")):
        run_import(tmp_path / "best.ckpt", tmp_path / "run", allow_pickle=True)
    assert not (tmp_path / "run").exists()


def test_pickled_weights_equal_safetensors(tmp_path: Path) -> None:
    state = write_folder(tmp_path / "source", "mdlm")
    run_import(tmp_path / "source", tmp_path / "a")
    (tmp_path / "source/model.safetensors").unlink()
    torch.save(hub_names("mdlm", state), tmp_path / "source/pytorch_model.bin")
    with pytest.raises(PublishedError, match=r"pytorch_model.bin is a pickle.*--allow-pickle"):
        run_import(tmp_path / "source", tmp_path / "b")
    run_import(tmp_path / "source", tmp_path / "b", allow_pickle=True)
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_sedd_checkpoint_is_read_with_its_hydra_file(tmp_path: Path) -> None:
    state = published_state("sedd")
    (tmp_path / "exp/checkpoints-meta").mkdir(parents=True)
    (tmp_path / "exp/.hydra").mkdir()
    text = "\n".join(f"{key}: {value}" for key, value in CONFIGS["sedd"].items()).replace("True", "true")
    unsafe = f"\nextra: !!python/object/apply:os.system ['touch {tmp_path}/marker']\n"
    (tmp_path / "exp/.hydra/config.yaml").write_text(text.replace("'", "") + unsafe)
    average = {"decay": 0.9999, "num_updates": 1, "shadow_params": [2 * tensor for tensor in state.values()]}
    path = tmp_path / "exp/checkpoints-meta/checkpoint.pth"
    torch.save({"optimizer": {}, "model": OrderedDict(state), "ema": average, "step": 3}, path)
    run_import(path, tmp_path / "run", allow_pickle=True)
    found = load_file(tmp_path / "run/model.safetensors")
    assert torch.equal(found["network.head.weight"], 2 * state["output_layer.linear.weight"])
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("place", ["beside", "in_state"])
def test_pickle_that_would_run_a_command_runs_nothing(tmp_path: Path, place: str) -> None:
    marker = tmp_path / "executed.marker"
    evil = Evil(marker)
    if place == "beside":
        lightning(tmp_path / "evil.ckpt", loops=evil)
        found = run_import(tmp_path / "evil.ckpt", tmp_path / "run", allow_pickle=True)
        assert any(f"{os.system.__module__}.system" in note for note in found.notes)
    else:
        torch.save({"state_dict": {"x": torch.ones(2), "y": evil}}, tmp_path / "evil.ckpt")
        with pytest.raises(PublishedError, match=r"holds \w+.system where tensors belong; nothing of it was run"):
            run_import(tmp_path / "evil.ckpt", tmp_path / "run", allow_pickle=True, family="mdlm")
    assert not marker.exists()
    torch.load(tmp_path / "evil.ckpt", weights_only=False)  # the file is one that would
    assert marker.exists()


def test_published_pickles_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = real_data("published")
    monkeypatch.chdir(tmp_path)
    assert list_inert_names(Archive(folder / "evil.ckpt").content) == ["posix.system"]
    with pytest.raises(PublishedError, match="vocab_embed"):
        run_import(folder / "evil.ckpt", tmp_path / "run", allow_pickle=True, family="mdlm")
    settings = str(folder / "mdlm/config.json")
    found = run_import(folder / "mdlm.ckpt", tmp_path / "mdlm", allow_pickle=True, settings=settings)
    assert dict(found.facts)["weights"].startswith("moving average (decay 0.9999, 7 updates)")
    assert list(tmp_path.rglob("executed.marker")) == []


def write_archive(path: Path, data: bytes, storage: bytes = b"", compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/data/0", storage)
    return path


def tensor_pickle(count: int, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """Return a pickle of one float32 tensor in a storage of `count` numbers."""
    numbers = "".join(f"I{value}\n" for value in (offset,))
    sizes = ["(" + "".join(f"I{value}\n" for value in values) + "t" for values in (shape, stride)]
    storage = f"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI{count}\ntQ"
    return f"(Vx\nctorch._utils\n_rebuild_tensor_v2\n({storage}{numbers}{sizes[0]}{sizes[1]}I00\nNtRd.".encode()


def test_archive_reads_views_of_a_storage(tmp_path: Path) -> None:
    storage = torch.arange(6.0).numpy().tobytes()
    content = Archive(write_archive(tmp_path / "a.pt", tensor_pickle(6, 1, (2, 2), (1, 2)), storage)).content
    assert isinstance(content["x"], StoredTensor)
    assert content["x"].read().tolist() == [[1.0, 3.0], [2.0, 4.0]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tensor_pickle(6, 3, (4,), (1,)), "reaches beyond its 6 numbers"),
        (tensor_pickle(6, 0, (-1,), (1,)), "has offset 0"),
        (tensor_pickle(10**12, 0, (10**12,), (1,)), "has 24 bytes"),
        (b"\x80\x02]q\x00(K\x00", "pickle is damaged"),
        (b"\x80\x04\x82\x01.", "extension code 1"),
        (b"cos\nsystem\n(Vtrue\ntR(tR.", "pickle is damaged"),
    ],
)
def test_damaged_pickles_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = write_archive(tmp_path / "a.pt", data, bytes(24))
    with pytest.raises(PublishedError, match=message):
        Archive(path).content["x"].read()


def test_large_pickles_are_refused(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.pt", b"\x80\x02]q\x00(" + b"K\x00" * (MAX_PICKLE // 2) + b"e.")
    with pytest.raises(PublishedError, match="at most 67,108,864 are read"):
        Archive(path)
    path = write_archive(tmp_path / "b.pt", b"\x80\x02]q\x00(" + b"K\x00" * 1000 + b"e.", b"", zipfile.ZIP_DEFLATED)
    with pytest.raises(PublishedError, match="uncompressed"):
        Archive(path)


def test_nested_config_cannot_grow(tmp_path: Path) -> None:
    bomb: Any = "x"
    for _ in range(30):
        bomb = [bomb] * 10
    path = write_archive(tmp_path / "a.pt", pickle.dumps({"config": bomb}, 2))
    with pytest.raises(PublishedError, match="too large or too deep"):
        plain_values(Archive(path).content)
    assert list_inert_names(Archive(path).content) == []


def test_formats_before_zip_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save({"x": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(PublishedError, match=r"formats of torch before 1\.6 are not read"):
        run_import(path, tmp_path / "run", allow_pickle=True, family="sedd")
    shutil.make_archive(str(tmp_path / "tar"), "zip", tmp_path, "old.pth")
    shutil.move(tmp_path / "tar.zip", tmp_path / "other.pth")
    with pytest.raises(PublishedError, match=r"without data.pkl"):
        run_import(tmp_path / "other.pth", tmp_path / "run", allow_pickle=True, family="sedd")
