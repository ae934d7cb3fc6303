"""Reversal of short strings as a conditional diffusion: exact matches of two ways to read the source, by training steps.

A source has 2 to 5 of 8 letters, its target is the string backwards, on a canvas of 6 tokens filled with end tokens. The
true bound is 0 nats a pair. `prefix` reads the source in front of the canvas, `encoder` by cross-attention.

    python -m benchmarks.reverse_toy --ways prefix encoder --seeds 0 1 2 --steps 500 1000 1500
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.report import table
from model.discrete.model import DiffusionModel
from model.discrete.types import DiffusionConfig
from model_factory.training.tasks.conditional_diffusion import join

LETTERS, BEGIN, END, TOKENS = 8, 8, 9, 10
SHORTEST, LONGEST, CANVAS = 2, 5, 6
BATCH, LEARNING_RATE, TESTED = 64, 2e-3, 256
WAYS = ("prefix", "encoder")
SIZES = {"d_model": 64, "num_layers": 2, "num_heads": 4, "dropout": 0.0, "device": "cpu"}


class Pairs(NamedTuple):
    """Sources int64 [B, 7] between begin and end token, their masks, and canvases int64 [B, 6]."""

    source: Tensor
    mask: Tensor
    canvas: Tensor


class Measured(NamedTuple):
    """Shares of exact matches by one token a call and by 4 calls, nats a pair, and seconds of training so far."""

    one_by_one: float
    four_calls: float
    nats: float
    seconds: float


def draw_pairs(count: int, generator: torch.Generator) -> Pairs:
    """Draw pairs of a string and its reverse."""
    lengths = torch.randint(SHORTEST, LONGEST + 1, (count, 1), generator=generator)
    letters = torch.randint(LETTERS, (count, LONGEST), generator=generator)
    place = torch.arange(CANVAS)
    canvas = letters.gather(1, (lengths - 1 - place).clamp(min=0)).masked_fill(place >= lengths, END)
    source = torch.full((count, LONGEST + 2), END)
    source[:, 0], source[:, 1:-1] = BEGIN, letters.masked_fill(place[:-1] >= lengths, END)
    return Pairs(source, torch.arange(LONGEST + 2) < lengths + 2, canvas)


def build(
    way: str, seed: int, objective: dict[str, Any], backbone: str = "ddit", local_width: int | None = None
) -> DiffusionModel:
    """Build an untrained model that reads sources in one of `WAYS`."""
    torch.manual_seed(seed)
    keys: dict[str, Any] = {"type": backbone, "local_width": local_width, **SIZES}
    if way == "encoder":
        keys["encoder"] = {"type": "performer", **{key: value for key, value in SIZES.items() if key != "device"}}
    schedule = {"type": "loglinear", "eps": 0.0 if objective.get("times") == "count" else 1e-3}
    section = {"schedule": schedule, "objective": objective, "backbone": keys, "vocab_size": TOKENS}
    return DiffusionModel(DiffusionConfig.model_validate(section))


def inputs(model: DiffusionModel, pairs: Pairs) -> dict[str, Tensor]:
    """Return the keywords by which the model reads pairs."""
    if model.has_encoder:
        return {"input_ids": pairs.canvas, "context_ids": pairs.source, "context_mask": pairs.mask}
    return join(*pairs)._asdict()


def train(model: DiffusionModel, seed: int, steps: Sequence[int], weighting: str) -> Iterator[tuple[int, Measured]]:
    """Train to the last of `steps`; yield the figures at each of them."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), LEARNING_RATE)
    seconds = 0.0
    for step in range(1, max(steps) + 1):
        start = time.process_time()
        given = inputs(model, draw_pairs(BATCH, generator))
        loss = model.train()(**given, seed=step, loss_weighting=weighting).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seconds += time.process_time() - start
        if step in steps:
            yield step, measure(model, seconds)


@torch.no_grad()
def measure(model: DiffusionModel, seconds: float) -> Measured:
    """Measure exact matches and the bound on 256 pairs that do not depend on the run."""
    pairs = draw_pairs(TESTED, torch.Generator().manual_seed(10_000))
    matches = [_share_of_matches(model, pairs, *how) for how in (("first_hitting", CANVAS), ("ancestral", 4))]
    nats = torch.stack([model.eval()(**inputs(model, pairs), seed=draw).loss for draw in range(8)]).mean() * CANVAS
    return Measured(*matches, float(nats), seconds)


def _share_of_matches(model: DiffusionModel, pairs: Pairs, sampler: str, steps: int) -> float:
    """Return the share of targets that are sampled right; the sources must stay as they are."""
    options: dict[str, Any] = {"sampler": sampler, "steps": steps, "generator": torch.Generator().manual_seed(0)}
    if model.has_encoder:
        tokens = model.draw(TESTED, CANVAS, context_ids=pairs.source, context_mask=pairs.mask, **options).tokens
        return float((tokens == pairs.canvas).all(1).float().mean())
    rows = join(*pairs)
    kept = rows.attention_mask & ~rows.response_mask
    options |= {"prompt": rows.input_ids, "frozen": ~rows.response_mask, "mask": rows.attention_mask}
    tokens = model.draw(TESTED, rows.input_ids.shape[1], **options).tokens
    assert torch.equal(tokens[kept], rows.input_ids[kept])
    written = tokens[rows.response_mask].view(TESTED, CANVAS)
    return float((written == pairs.canvas).all(1).float().mean())


def main() -> None:
    """Print a table with a row for each way, seed and number of steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--backbone", choices=("ddit", "performer"), default="ddit")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", nargs="+", type=int, default=[500, 1000, 1500])
    parser.add_argument("--times", help="times of the objective, such as count; by default its own")
    parser.add_argument("--local-width", type=int, help="width of a convolution over the embeddings; by default none")
    parser.add_argument("--weighting", choices=("bound", "uniform"), default="bound")
    args = parser.parse_args()
    torch.set_num_threads(1)
    objective = {"type": "mdlm"} | ({} if args.times is None else {"times": args.times})
    rows = []
    for way in args.ways:
        for seed in args.seeds:
            model = build(way, seed, objective, args.backbone, args.local_width)
            parameters = sum(parameter.numel() for parameter in model.parameters())
            for step, found in train(model, seed, args.steps, args.weighting):
                figures = (f"{found.one_by_one:.3f}", f"{found.four_calls:.3f}", f"{found.nats:.4f}")
                rows.append([way, f"{parameters:,}", str(seed), f"{step:,}", *figures, f"{found.seconds:.0f} s"])
                print(rows[-1], flush=True)
    head = ["way", "parameters", "seed", "steps", "one token a call", "4 calls", "nats a pair", "time of a core"]
    print(table(head, rows))


if __name__ == "__main__":
    main()
