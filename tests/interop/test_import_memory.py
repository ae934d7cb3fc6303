"""Import and loading of a sharded folder: one tensor in memory at a time; and what an import leaves that fails."""

import json
import math
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.peak_memory import RESET, peak_rise
from benchmarks.published_import import write_llada
from model import checkpoint
from model.checkpoints.published import Options, Published, read_published
from model.checkpoints.source import find_source
from model_factory.training.errors import WriteError
from model_factory.training.run.folder import load_run
from tests.interop.published import run_import, write_folder
from tests.interop.test_import_language_models import CONFIGS, write
from tests.interop.test_imported_run import write_tokenizer

WIDTH, ROWS, LAYERS, INNER = 512, 16_000, 8, 1024


def write_shards(folder: Path) -> int:
    """Write an LLaDA of 78 MB in bfloat16, a shard for each layer; return its bytes."""
    sizes = {"d_model": WIDTH, "n_heads": 8, "n_kv_heads": 8, "n_layers": LAYERS, "mlp_hidden_size": INNER}
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({**CONFIGS["llada"], **sizes, "vocab_size": ROWS, "embedding_size": ROWS})
    )
    shards = [{"wte": (ROWS, WIDTH)}, {"ff_out": (ROWS, WIDTH), "ln_f": (WIDTH,)}]
    square = dict.fromkeys(("q_proj", "k_proj", "v_proj", "attn_out"), (WIDTH, WIDTH))
    layer = {**square, "ff_proj": (INNER, WIDTH), "up_proj": (INNER, WIDTH), "ff_out": (WIDTH, INNER)}
    layer |= {"attn_norm": (WIDTH,), "ff_norm": (WIDTH,)}
    shards += [{f"blocks.{index}.{name}": shape for name, shape in layer.items()} for index in range(LAYERS)]
    places, total = {}, 0
    for index, shard in enumerate(shards):
        tensors = {
            f"model.transformer.{name}.weight": torch.ones(*x, dtype=torch.bfloat16) for name, x in shard.items()
        }
        save_file(tensors, folder / f"model-{index}.safetensors")
        places |= dict.fromkeys(tensors, f"model-{index}.safetensors")
        total += sum(tensor.nbytes for tensor in tensors.values())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return total


@pytest.mark.skipif(not RESET.exists(), reason="the peak of memory is read from Linux's /proc")
def test_shards_are_read_without_a_second_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "small", "llada", torch.bfloat16)
    run_import(tmp_path / "small", tmp_path / "first")
    load_run(tmp_path / "first", device="cpu")  # imports what both need
    monkeypatch.setattr(checkpoint, "_MAPPED", 1 << 20)
    total = write_shards(tmp_path / "source")
    assert peak_rise(lambda: run_import(tmp_path / "source", tmp_path / "run")) < 0.7 * total
    assert peak_rise(lambda: load_run(tmp_path / "run", device="cpu")) < 1.2 * total
    assert {x.dtype for x in load_file(tmp_path / "run/model.safetensors").values()} == {torch.bfloat16}


def test_import_on_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    write_folder(tmp_path / "source", "mdlm")
    tokenizer = str(write_tokenizer(tmp_path / "words"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, limits[1]))  # the weights are larger, and the rest is not
    try:
        with pytest.raises(WriteError, match="the imported run cannot be written"):
            run_import(tmp_path / "source", tmp_path / "run", tokenizer=tokenizer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "run").exists()
    run_import(tmp_path / "source", tmp_path / "run", tokenizer=tokenizer)


@pytest.mark.skipif(not RESET.exists(), reason="the peak of memory is read from Linux's /proc")
def test_map_of_8_billion_parameters_reads_no_numbers(tmp_path: Path) -> None:
    """The shards are sparse: their 16 GB are not on the disk, and reading a part of them would show in memory."""
    write(tmp_path / "small", "llada")
    read_published(find_source(str(tmp_path / "small")), Options(), lambda: None)  # imports what both need
    assert write_llada(tmp_path / "source") > 16e9
    found: list[Published] = []

    def read() -> None:
        found.append(read_published(find_source(str(tmp_path / "source")), Options(), lambda: None))

    assert peak_rise(read) < 64e6
    kinds = found[0].tensors.kinds
    assert len(kinds) == 32 * 9 + 3
    assert sum(math.prod(shape) for _, shape in kinds.values()) == 8_015_581_184
    assert {dtype for dtype, _ in kinds.values()} == {torch.bfloat16}
