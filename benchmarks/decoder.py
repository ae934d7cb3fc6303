"""Compare whole decoders: generation of a token with performer-pytorch, a training step with x-transformers.

    python -m benchmarks.decoder [--write]

4 layers of width 512 with 8 heads, float32, 2 threads; 256 token ids.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.report import provenance, table, write_section
from benchmarks.timing import Clock, Timing
from model.transformer.performer import PerformerDecoder
from model.types import PerformerParams

VOCAB, WIDTH, LAYERS, HEADS = 256, 512, 4, 8
STEPS = 16
"""Tokens generated in one measurement."""


def make_decoder(attention_type: str) -> PerformerDecoder:
    """Build our decoder, of the common size."""
    torch.manual_seed(0)
    shape = {"d_model": WIDTH, "num_layers": LAYERS, "num_heads": HEADS, "vocab_size": VOCAB, "dropout": 0.0}
    return PerformerDecoder(PerformerParams(**shape, device="cpu", attention_type=attention_type, tie_embeddings=False))


def ids(*shape: int) -> Tensor:
    """Draw random token ids."""
    return torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(1))


def make_step_call(attention_type: str, prefix: int) -> Callable[[], object]:
    """Return a call that decodes `STEPS` tokens after a prefix that is already in the cache."""
    decoder = make_decoder(attention_type).eval()
    token = ids(1, 1)
    with torch.no_grad():
        _, state = decoder.start(ids(1, prefix), capacity=64 * STEPS)

    def call() -> None:
        with torch.no_grad():
            for _ in range(STEPS):
                decoder.step(token, state)

    return call


def performer_pytorch(prefix: int) -> Callable[[], object]:
    """Return a call that decodes one token as performer-pytorch's `generate` does: over the whole prefix again."""
    from performer_pytorch import PerformerLM

    torch.manual_seed(0)
    model: Any = PerformerLM(
        num_tokens=VOCAB, max_seq_len=prefix + 1, dim=WIDTH, depth=LAYERS, heads=HEADS, dim_head=64, causal=True
    ).eval()
    prompt = ids(1, prefix)

    def call() -> None:
        with torch.no_grad():
            model(prompt)[:, -1]

    return call


def generation(clock: Clock, rounds: int) -> str:
    """Measure milliseconds a token after prefixes of 128, 1024 and 8192."""
    prefixes = (128, 1024, 8192)
    calls = {
        f"{kind} {prefix}": make_step_call(kind, prefix) for prefix in prefixes for kind in ("causal_linear", "softmax")
    }
    calls["performer-pytorch 1024"] = performer_pytorch(1024)
    timings = clock.medians(calls, rounds=rounds, budget=10)
    token = {name: timing.time / (1 if name.startswith("performer") else STEPS) for name, timing in timings.items()}
    rows = []
    for name, time in token.items():
        kind, prefix = name.split()
        theirs = f"{token['performer-pytorch 1024'] / time:.0f}×" if prefix == "1024" else ""
        first = f"{time / token[f'{kind} 128']:.2f}" if f"{kind} 128" in token else ""
        rows.append([kind, prefix, f"{1e3 * time:.2f}", theirs, first, f"{timings[name].speed / 1e9:.0f}"])
    header = [
        "decoder",
        "prefix",
        "ms a token",
        "faster than performer-pytorch",
        "over prefix 128",
        "torch.mm, GFLOP/s",
    ]
    return table(header, rows) + "\n"


def training_step(model: nn.Module, logits: Callable[[Tensor], Tensor], tokens: Tensor) -> Callable[[], object]:
    """Return a call of a training step: forward, loss, backward and AdamW."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def call() -> None:
        loss = F.cross_entropy(logits(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return call


def x_transformers(length: int) -> nn.Module:
    """Build x-transformers' decoder of the same size: rotary positions, flash attention, no projection biases."""
    from x_transformers import Decoder, TransformerWrapper

    torch.manual_seed(0)
    layers = Decoder(dim=WIDTH, depth=LAYERS, heads=HEADS, attn_dim_head=64, attn_flash=True, rotary_pos_emb=True)
    wrapper: nn.Module = TransformerWrapper(
        num_tokens=VOCAB, max_seq_len=length, attn_layers=layers, use_abs_pos_emb=False
    )
    return wrapper


def training(clock: Clock, rounds: int) -> str:
    """Measure milliseconds of a training step over 4 rows of 512 and 1 row of 2048 tokens."""
    rows = []
    for batch, length in ((4, 512), (1, 2048)):
        ours, linear, theirs = make_decoder("softmax"), make_decoder("causal_linear"), x_transformers(length)
        models = {"softmax": ours, "causal_linear": linear, "x-transformers": theirs}
        tokens = ids(batch, length + 1)
        calls = {name: training_step(model, model, tokens) for name, model in models.items()}
        timings: dict[str, Timing] = clock.medians(calls, rounds=rounds, budget=30)
        for name, timing in timings.items():
            parameters = sum(p.numel() for p in models[name].parameters())
            ratio = timing.time / timings["x-transformers"].time
            shown = [f"{1e3 * timing.time:.0f}", f"{ratio:.2f}", f"{timing.speed / 1e9:.0f}"]
            rows.append([name, f"{batch} × {length}", f"{parameters / 1e6:.1f} M", *shown])
    return table(["decoder", "tokens", "parameters", "ms a step", "over x-transformers", "torch.mm, GFLOP/s"], rows)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="write RESULTS.md")
    given = parser.parse_args()
    clock = Clock(given.threads)
    tables = []
    for measure in (generation, training):
        tables.append(measure(clock, given.rounds))
        print(tables[-1], flush=True)
    if given.write:
        header = f"## Decoders\n{provenance('torch', 'performer-pytorch', 'x-transformers')}\n"
        about = (__doc__ or "").strip().split("\n\n")[-1]
        write_section("decoders", "\n".join([header, about + "\n", *tables]))


if __name__ == "__main__":
    main()
