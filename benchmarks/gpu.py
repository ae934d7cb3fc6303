"""Measure on a GPU what the tests count on a CPU: waits, launches, speed, memory and MFU of training, attention and samplers.

    python -m benchmarks.gpu                        # every part, some minutes; --write puts the tables into RESULTS.md
    python -m benchmarks.gpu --parts steps heads
    python -m benchmarks.gpu --device cpu --tiny    # the same code on a CPU, without what a GPU alone can tell

Training steps run with `torch.cuda.set_sync_debug_mode("error")`: a step that makes the host wait for the GPU ends the
benchmark. Times are medians of groups of steps, each between two waits; launches are kernels that the profiler saw.
"""

import argparse
import gc
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu_steps import NONE, OBJECTIVES, TINY, Bench, Size, backbone, decoder_step, denoiser, diffusion_step
from benchmarks.report import provenance, table, write_section

SAMPLERS = (
    "ancestral",
    "ancestral_cache",
    "analytic",
    "euler",
    "first_hitting",
    "confidence",
    "entropy_bounded",
    "remasking",
)


# Parts, each of which returns a table.


def measure_steps(bench: Bench) -> str:
    """Measure a training step of every objective, of other backbones, and of decoders."""
    cases: list[tuple[str, Callable[[], Callable[[], None]]]] = [
        (f"{name}, ddit", lambda name=name: diffusion_step(bench, denoiser(bench, name))) for name in OBJECTIVES
    ]
    cases += [
        (f"mdlm, {kind}", lambda kind=kind: diffusion_step(bench, denoiser(bench, "mdlm", kind)))
        for kind in ("performer", "bert")
    ]
    cases += [
        (f"decoder, {kind}", lambda kind=kind: decoder_step(bench, kind)) for kind in ("softmax", "causal_linear")
    ]
    lines = []
    for name, build in cases:
        step = build()
        seconds = bench.seconds(step)
        tokens = bench.size.rows * bench.size.length / seconds
        lines.append([name, f"{1e3 * seconds:,.1f} ms", f"{tokens:,.0f}", bench.count(step), bench.peak(step)])
    return table(["model", "step", "tokens/s", "launches", "peak above weights and moments"], lines)


def measure_heads(bench: Bench) -> str:
    """Measure a step with head and loss in chunks, and with the logits of the batch."""
    lines = []
    for name in ("mdlm", "udlm"):
        for form in ("in chunks", "logits"):
            model = denoiser(bench, name)
            model.has_row_form = model.has_row_form and form == "in chunks"
            step = diffusion_step(bench, model, trains=False)
            try:
                lines.append([name, form, f"{1e3 * bench.seconds(step):,.1f} ms", bench.peak(step)])
            except torch.OutOfMemoryError:
                lines.append([name, form, "out of memory", NONE])
    return table(["objective", "head", "forward and backward", "peak"], lines)


def measure_attention(bench: Bench) -> str:
    """Measure causal softmax and causal linear attention by length, and name the kernel of the softmax."""
    from model.attention.chunked.op import NEEDED_FLOPS  # noqa: F401  # the operator is registered there
    from model.attention.multi_head import MultiHeadAttention
    from model.types import PerformerParams

    lines = []
    for length in bench.size.lengths:
        for kind in ("softmax", "causal_linear"):
            sizes = {"d_model": bench.size.width, "num_heads": bench.size.heads, "num_layers": 1}
            params = PerformerParams(**sizes, attention_type=kind)
            layer = MultiHeadAttention(params).to(bench.device)
            x = torch.randn(1, length, bench.size.width, device=bench.device)

            def forward(layer: nn.Module = layer, x: Tensor = x) -> Tensor:
                with bench.autocast():
                    out: Tensor = layer(x, causal=True)
                return out

            def both(forward: Callable[[], Tensor] = forward) -> None:
                forward().float().square().sum().backward()

            names = " ".join(bench.kernels(forward)).lower()
            flash = ("yes" if "flash" in names else "no") if kind == "softmax" and bench.is_gpu else NONE
            times = [f"{1e3 * bench.seconds(call):,.2f} ms" for call in (forward, both)]
            lines.append([f"{length:,}", kind, *times, bench.count(forward), bench.count(both), flash])
    return table(
        ["tokens", "attention", "forward", "with backward", "launches", "with backward", "flash kernel"], lines
    )


def measure_samplers(bench: Bench) -> str:
    """Count the waits of a sampler's step, and time a network call and the rest of the step."""
    model = denoiser(bench, "mdlm").eval()
    lines = []
    for name in SAMPLERS:
        counts, times = [], []
        for steps in (4, 12):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                if bench.is_gpu:
                    torch.cuda.set_sync_debug_mode("warn")
                start = time.perf_counter()
                try:
                    generator = torch.Generator().manual_seed(0)
                    model.sample(bench.size.rows, steps=steps, sampler=name, generator=generator)
                finally:
                    if bench.is_gpu:
                        torch.cuda.set_sync_debug_mode("default")
                bench.wait()
                times.append(time.perf_counter() - start)
            counts.append(sum("synchroniz" in str(warning.message) for warning in caught))
        waits = f"{(counts[1] - counts[0]) / 8:.2f}" if bench.is_gpu else NONE
        lines.append([name, waits, f"{1e3 * (times[1] - times[0]) / 8:,.1f} ms"])
    return table(["sampler", "waits a step", "time of a step"], lines)


def measure_compile(bench: Bench) -> str:
    """Time steps with and without torch.compile of model and loss as one graph."""
    lines = []
    for name in ("mdlm", "udlm"):
        plain = denoiser(bench, name)
        base = bench.seconds(diffusion_step(bench, plain))
        compiled = denoiser(bench, name)
        compiled.forward = torch.compile(
            compiled.forward, fullgraph=True, backend="inductor" if bench.is_gpu else "eager"
        )
        faster = bench.seconds(diffusion_step(bench, compiled))
        lines.append([name, f"{1e3 * base:,.1f} ms", f"{1e3 * faster:,.1f} ms", f"{base / faster:.2f}"])
    return table(["objective", "eager", "compiled", "times as fast"], lines)


def measure_memory(bench: Bench) -> str:
    """Measure time and peak with each kind of activation checkpointing."""
    from model.activation_checkpointing import checkpoint_activations

    lines = []
    for kind in ("none", "selective", "full"):
        model = denoiser(bench, "mdlm")
        checkpoint_activations(model, kind)  # type: ignore[arg-type]
        step = diffusion_step(bench, model, trains=False)
        lines.append([kind, f"{1e3 * bench.seconds(step):,.1f} ms", bench.peak(step)])
    return table(["activation_checkpointing", "forward and backward", "peak"], lines)


def measure_training(bench: Bench) -> str:
    """Train by `train` on characters, and compare its tokens a second with a plain loop of the same model."""
    from data_manager.data_manager import DatasetManager
    from model.model_factory import create_model
    from model_factory.experiment.build import with_vocabulary
    from model_factory.training.engine import train
    from model_factory.yaml_config.dump import dump
    from parse_args import parse_experiment

    size = bench.size
    steps = 2 * size.groups * size.steps
    network = {**backbone(size, "ddit"), "device": str(bench.device)}
    given = {
        "model": {"model_type": "diffusion", **OBJECTIVES["mdlm"], "backbone": network},
        "datasets": [
            {
                "name": "python_docs",
                "source": "embedded",
                "tokenizer": {"type": "characters"},
                "sequence_length": size.length,
            }
        ],
        "training": {
            "max_steps": steps,
            "batch_size": size.rows,
            "logging_steps": max(1, steps // 2),
            "bf16": bench.is_gpu,
            "eval_steps": steps,
            "save_steps": steps,
            "max_eval_samples": 1,
        },
        "generation": {"num_samples": 1, "steps": 1},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mdlm.yml")
        path.write_text(dump(given))
        config = with_vocabulary(parse_experiment(path))
        train(parse_experiment(path), Path(folder, "run"))
        entries = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
        assert config.model is not None
        assert config.datasets
        rows = DatasetManager.load_datasets(config.datasets)["python_docs"]["train"]
        loader = DatasetManager.create_dataloader(rows, config.datasets[0], batch_size=size.rows, shuffle=True)
        ids = next(iter(loader))["input_ids"]
        model: Any = create_model(config.model).train()
    trained = [entry for entry in entries if "tokens_per_second" in entry][-1]
    plain = Bench(bench.device, Size(**{**vars(size), "vocabulary": model.config.config.vocab_size, "rows": len(ids)}))
    loop = len(ids) * ids.shape[1] / plain.seconds(diffusion_step(plain, model))
    shown = {"mfu": NONE, **trained}
    figures = [f"{shown[name]}" for name in ("step_ms", "data_wait", "memory_gib", "mfu")]
    speeds = [f"{trained['tokens_per_second']:,.0f}", f"{loop:,.0f}", f"{trained['tokens_per_second'] / loop:.2f}"]
    return table(
        ["tokens/s", "plain loop", "ratio", "step_ms", "data_wait", "memory, GiB", "MFU"], [[*speeds, *figures]]
    )


PARTS: dict[str, Callable[[Bench], str]] = {
    "steps": measure_steps,
    "heads": measure_heads,
    "attention": measure_attention,
    "samplers": measure_samplers,
    "compile": measure_compile,
    "memory": measure_memory,
    "training": measure_training,
}


def main(words: list[str] | None = None) -> None:
    """Measure the parts, print their tables, and write them into RESULTS.md if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes with which every part takes seconds on a CPU")
    parser.add_argument("--write", action="store_true", help="put the tables into benchmarks/RESULTS.md")
    given = parser.parse_args(words)
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            "this machine has no GPU; --device cpu --tiny runs the same code without what a GPU alone can tell"
        )
    bench = Bench(device, TINY if given.tiny else Size())
    name = torch.cuda.get_device_name(device) if bench.is_gpu else "a CPU"
    texts = [f"{provenance('torch')} Device: {name}; {bench.size}."]
    for part in given.parts:
        texts.append(f"### {part}\n\n{(PARTS[part].__doc__ or '').strip()}\n\n{PARTS[part](bench)}")
        print(texts[-1], end="\n\n", flush=True)
        gc.collect()
    if given.write:
        write_section("gpu", "## On a GPU\n\n" + "\n\n".join(texts))


if __name__ == "__main__":
    main()
