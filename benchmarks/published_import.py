"""Time and memory of published checkpoints: import and loading of 170 M parameters, and the map of 8 B ones without their numbers.

    python -m benchmarks.published_import --folder /tmp/published

The folders have the sizes of mdlm-owt (random float32 weights, 679 MB) and of LLaDA-8B (bfloat16, a sparse file of 16 GB that
takes no disk space). Each part runs in a separate process, after its imports; memory is the rise of the resident set (Linux).
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks.peak_memory import peak_rise

PARTS = ("import 170 M", "load 170 M", "map 8 B", "check 8 B")
_LLADA = {
    "model_type": "llada",
    "d_model": 4096,
    "n_heads": 32,
    "n_kv_heads": 32,
    "n_layers": 32,
    "mlp_hidden_size": 12288,
    "vocab_size": 126464,
    "embedding_size": 126464,
    "max_sequence_length": 4096,
    "rope_theta": 5e5,
    "rms_norm_eps": 1e-5,
    "weight_tying": False,
    "mask_token_id": 126336,
}
"""config.json of LLaDA-8B, as far as the import reads it."""
_MDLM = {
    "model_type": "mdlm",
    "vocab_size": 50258,
    "model_length": 1024,
    "hidden_dim": 768,
    "cond_dim": 128,
    "n_blocks": 12,
    "n_heads": 12,
    "dropout": 0.1,
    "time_conditioning": False,
}
_SHARDS = 6


def write_llada(folder: Path) -> int:
    """Write a folder with the files of LLaDA-8B whose shards are sparse, so that they hold no numbers; return their bytes."""
    width, inner, rows = _LLADA["d_model"], _LLADA["mlp_hidden_size"], _LLADA["vocab_size"]
    shapes = {"wte": (rows, width), "ff_out": (rows, width), "ln_f": (width,)}
    layer = dict.fromkeys(("q_proj", "k_proj", "v_proj", "attn_out"), (width, width))
    layer |= {"ff_proj": (inner, width), "up_proj": (inner, width), "ff_out": (width, inner)}
    layer |= {"attn_norm": (width,), "ff_norm": (width,)}
    for index in range(int(str(_LLADA["n_layers"]))):
        shapes |= {f"blocks.{index}.{name}": shape for name, shape in layer.items()}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(_LLADA))
    places: dict[str, str] = {}
    names = list(shapes)
    for index in range(_SHARDS):
        file = f"model-{index + 1:05}-of-{_SHARDS:05}.safetensors"
        shard = {f"model.transformer.{name}.weight": shapes[name] for name in names[index::_SHARDS]}
        _write_sparse(folder / file, shard)
        places |= dict.fromkeys(shard, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return sum(2 * math.prod(shape) for shape in shapes.values())


def _write_sparse(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Write the header of a safetensors file of bfloat16 tensors, and a hole for the numbers."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def write_mdlm(folder: Path) -> int:
    """Write a folder with the sizes of mdlm-owt and random weights; return the number of parameters."""
    from model.checkpoint import write_one_by_one
    from model.checkpoints.ddit_family import Sizes, shapes_of

    sizes = Sizes(rows=50258, width=768, cond_dim=128, layers=12, expansion=4, classes=None)
    shapes = {f"backbone.{name}": shape for name, shape in shapes_of(sizes)}
    if folder.exists():
        raise SystemExit(f"{folder} exists; give a folder that does not")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(_MDLM))
    generator = torch.Generator().manual_seed(0)
    kinds = {name: (torch.float32, shape) for name, shape in shapes.items()}
    write_one_by_one(
        folder / "model.safetensors", kinds, lambda name: 0.02 * torch.randn(shapes[name], generator=generator)
    )
    return sum(math.prod(shape) for shape in shapes.values())


def _call(part: str, folder: Path) -> Callable[[], object]:
    """Return the call that a part measures; everything that it imports is imported here."""
    from model.checkpoints.published import Options, read_published
    from model.checkpoints.source import find_source
    from model_factory.experiment.config import read_experiment
    from model_factory.interop.import_run import Request, import_run
    from model_factory.training.run.folder import load_run

    if part == "import 170 M":
        return lambda: import_run(Request(str(folder / "mdlm"), folder / "run"))
    if part == "load 170 M":
        return lambda: load_run(folder / "run", device="cpu")
    if part == "map 8 B":
        import transformers.models.llama.modeling_llama  # noqa: F401

        return lambda: read_published(find_source(str(folder / "llada")), Options(), lambda: None)
    file = folder / "tune.yml"
    file.write_text(f"model: {{model_type: diffusion, pretrained: {folder / 'llada'}}}\n")
    return lambda: read_experiment(file)


def _measure(part: str, folder: Path) -> Iterator[str]:
    call = _call(part, folder)
    seconds: list[float] = []

    def timed() -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        seconds.extend((time.perf_counter() - wall, time.process_time() - cpu))

    rise = peak_rise(timed)
    yield f"| {part} | {seconds[0]:.2f} | {seconds[1]:.2f} | {rise / 1e6:,.0f} |"


def main() -> None:
    """Print a table: wall and CPU seconds, and the peak of memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, type=Path, help="new folder for 1.4 GB of files")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part is not None:
        print(*_measure(given.part, given.folder), sep="\n")
        return
    parameters, stored = write_mdlm(given.folder / "mdlm"), write_llada(given.folder / "llada")
    load = os.getloadavg()[0]
    print(f"{parameters:,} parameters, and {stored / 1e9:.1f} GB of bfloat16; load of the machine {load:.1f}\n")
    print("| part | wall, s | CPU, s | rise of memory, MB |\n| --- | --- | --- | --- |", flush=True)
    for part in PARTS:
        command = [sys.executable, "-m", __spec__.name, "--folder", str(given.folder), "--part", part]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
