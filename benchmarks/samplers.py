"""Measure the cost of sampling: float64 draws, network calls saved by skipping unchanged rows, and cached prefixes.

    python -m benchmarks.samplers [--part draws|network|blocks] [--repeats 5] [--steps 1000] [--length 128] [--threads 1]

Everything runs in one process, with contenders interleaved, and medians are printed as Markdown: first
`sample_categorical` beside draws in float32 (inversion of the cumulative sum, and the Gumbel trick of the published
samplers), then whole samplings of a masked diffusion model over a DDiT, with network calls a row; last BD3LM with and
without the KV cache of finished blocks, which gives the same samples.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from model.discrete.model import DiffusionModel
from model.discrete.types import DiffusionConfig
from model_factory.diffusion.categorical import sample_categorical
from model_factory.diffusion.samplers.denoiser import Denoiser
from model_factory.diffusion.samplers.state import SamplerState

WEIGHTS = 300_000  # numbers in a tensor of distributions of any size
SIZES = (28, 107, 1000, 8192, 30522, 50258)
SAMPLERS = (
    "ancestral",
    "ancestral_cache",
    "first_hitting",
    "confidence",
    "entropy_bounded",
    "remasking",
    "predictor_corrector",
)


def inverted_in_float32(probs: Tensor) -> Tensor:
    """Sample by inversion of the cumulative sum in float32, with a uniform from a grid of 2^-24."""
    cumulative = probs.cumsum(-1)
    return torch.searchsorted(cumulative, torch.rand(len(probs), 1) * cumulative[:, -1:])


def gumbel_in_float32(probs: Tensor) -> Tensor:
    """Sample by the Gumbel trick, as published with SEDD and MDLM: argmax of p / -log u."""
    return (probs / (1e-10 - (torch.rand_like(probs) + 1e-10).log())).argmax(-1)


def medians(contenders: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Measure the median seconds of each after a warm-up round.

    The order is random in each round, as the first call has cold caches.
    """
    taken: list[list[float]] = [[] for _ in contenders]
    order = list(range(len(contenders)))
    shuffle = random.Random(0).shuffle
    for _ in range(repeats + 1):
        shuffle(order)
        for index in order:
            start = time.perf_counter()
            contenders[index]()
            taken[index].append(time.perf_counter() - start)
    return [statistics.median(times[1:]) for times in taken]


def draws_table(repeats: int) -> str:
    """Format the times of our draws and of draws in float32 as Markdown."""
    lines = [
        "| vocabulary | draws | float64 | float32, inverted | ratio | float64 | float32, Gumbel | ratio |",
        "|" + " ---: |" * 8,
    ]
    for size in SIZES:
        probs = torch.rand(max(1, WEIGHTS // size), size)
        cells = [f"{size:,}", f"{len(probs):,}"]
        # In pairs: the Gumbel trick's large arrays would evict the next contender's memory from caches.
        for other in (inverted_in_float32, gumbel_in_float32):
            ours, theirs = medians([partial(draw, probs) for draw in (sample_categorical, other)], 40 * repeats)
            cells += [f"{1e3 * ours:.2f} ms", f"{1e3 * theirs:.2f} ms", f"{ours / theirs:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def masked_model(length: int, d_model: int, num_layers: int, objective: dict[str, Any] | None = None) -> DiffusionModel:
    """Build MDLM, or another objective, over an untrained DDiT with 106 characters; cost ignores weights."""
    torch.manual_seed(0)
    backbone = {"type": "ddit", "d_model": d_model, "num_layers": num_layers, "num_heads": 4, "device": "cpu"}
    section = {"objective": objective or {"type": "mdlm"}, "backbone": backbone, "vocab_size": 106, "length": length}
    return DiffusionModel(DiffusionConfig.model_validate(section)).eval()


def network_table(model: DiffusionModel, steps: int, repeats: int, batches: Sequence[int]) -> str:
    """Format whole samplings by each sampler of the absorbing process as Markdown."""
    lines = [
        "| batch | sampler | steps | seconds | against ancestral | network calls a row |",
        "| ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for batch in batches:
        states: dict[str, SamplerState] = {}

        def run(name: str, batch: int = batch, states: dict[str, SamplerState] = states) -> None:
            states[name] = model.draw(batch, steps=steps, sampler=name, generator=torch.Generator().manual_seed(0))

        times = medians([partial(run, name) for name in SAMPLERS], repeats)
        assert torch.equal(states["ancestral"].tokens, states["ancestral_cache"].tokens)  # the same samples, faster
        for name, seconds in zip(SAMPLERS, times, strict=True):
            calls = states[name].network_calls.double().mean()
            lines.append(
                f"| {batch} | {name} | {states[name].step:,} | {seconds:.2f} | {times[0] / seconds:.1f} x "
                f"| {calls:,.1f} |"
            )
    return "\n".join(lines)


def blocks_table(lengths: Sequence[int], d_model: int, num_layers: int, repeats: int, block_size: int = 16) -> str:
    """Measure a whole sampling of BD3LM, one token a call: with KV cache, against [x_t ; x_0] in each call."""
    lines = ["| length | calls | prefix kept | doubled sequence | ratio |", "| ---: " * 5 + "|"]
    for length in lengths:
        model = masked_model(length, d_model, num_layers, {"type": "bd3lm", "block_size": block_size})
        plain = masked_model(length, d_model, num_layers, {"type": "bd3lm", "block_size": block_size})
        plain.load_state_dict(model.state_dict())
        plain._denoiser = partial(doubled_denoiser, plain)  # type: ignore[method-assign]
        seeds = torch.Generator()
        draws = [partial(_sample, one, seeds, length) for one in (model, plain)]
        assert torch.equal(*(draw() for draw in draws))
        cached, doubled = medians(draws, repeats)
        lines.append(f"| {length} | {length} | {cached:.2f} s | {doubled:.2f} s | {doubled / cached:.1f} |")
    return "\n".join(lines)


def doubled_denoiser(model: DiffusionModel, cond: Tensor | None, rows: int, **settings: object) -> Denoiser:
    """Build a denoiser of a block model that runs the whole doubled sequence at each call."""

    def network(x_t: Tensor, sigma: Tensor) -> Tensor:
        levels = sigma[:, None].expand(x_t.shape)
        both = torch.cat([x_t, x_t], 1), torch.cat([levels, torch.zeros_like(levels)], 1)
        return model._predict(*both)[:, : x_t.shape[1]]

    return Denoiser(network, model.objective.parameterisation, block_size=model.block_size)


def _sample(model: DiffusionModel, seeds: torch.Generator, length: int) -> Tensor:
    return model.sample(1, length, steps=length, generator=seeds.manual_seed(0))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["draws", "network", "blocks"], help="print one table (default: all)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of whole samplings; draws use 40 times as many")
    parser.add_argument("--steps", type=int, default=1000, help="steps of the time grid")
    parser.add_argument("--length", type=int, default=128, help="tokens of a sample")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16], help="rows at a time")
    parser.add_argument("--d-model", type=int, default=128, help="width of the network")
    parser.add_argument("--num-layers", type=int, default=2, help="layers of the network")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, CPU, {options.threads} thread(s)\n")
    if options.part in (None, "draws"):
        print(draws_table(options.repeats) + "\n")
    if options.part in (None, "network"):
        model = masked_model(options.length, options.d_model, options.num_layers)
        print(network_table(model, options.steps, options.repeats, options.batches) + "\n")
    if options.part in (None, "blocks"):
        print(blocks_table((128, 256, 512), options.d_model, options.num_layers, options.repeats))


if __name__ == "__main__":
    main()
