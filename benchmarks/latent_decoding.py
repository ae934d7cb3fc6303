"""Measure the speed-up of the KV cache in decoding latents, with equal tokens.

    python -m benchmarks.latent_decoding [--write]

16 latents are decoded greedily to texts of 64 tokens, on one thread, by GPT-2 of 4 layers of width 256 and by our
decoder of the same size, softmax and causal_linear. Without a cache each token runs the whole text again, as in the
published code.
"""

import argparse
from collections.abc import Callable

import torch

from benchmarks.report import provenance, table, write_section
from benchmarks.timing import Clock
from model.latent.decoder import LatentDecoder
from model.latent.part_types import ConnectorDecoderConfig, PerformerDecoderConfig
from model.latent.registry import LATENT_DECODERS

VOCAB, WIDTH, LAYERS, HEADS, LATENT = 1000, 256, 4, 4, 64
BATCH, TOKENS = 16, 64


def decoders() -> dict[str, LatentDecoder]:
    """Build the contenders by name, with random weights."""
    torch.manual_seed(0)
    gpt2 = ConnectorDecoderConfig(
        type="GPT2ForLatentConnector", hidden_size=WIDTH, num_layers=LAYERS, num_heads=HEADS, vocab_size=VOCAB
    )
    sizes = {"d_model": WIDTH, "num_layers": LAYERS, "num_heads": HEADS, "vocab_size": VOCAB, "device": "cpu"}
    ours = {kind: PerformerDecoderConfig(attention_type=kind, **sizes) for kind in ("softmax", "causal_linear")}
    found = {"GPT-2, memory + embedding": LATENT_DECODERS.get("GPT2ForLatentConnector").build(gpt2, LATENT)}
    for kind, config in ours.items():
        found[f"Performer, {kind}"] = LATENT_DECODERS.get("performer").build(config, LATENT)
    return {name: decoder.eval() for name, decoder in found.items()}


def make_decode_call(decoder: LatentDecoder, latents: torch.Tensor, *, use_cache: bool) -> Callable[[], torch.Tensor]:
    """Return the call to measure."""
    return lambda: decoder.generate(latents, 1, TOKENS, use_cache=use_cache)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the table to benchmarks/RESULTS.md")
    args = parser.parse_args()
    clock, latents, rows = Clock(threads=1), torch.randn(BATCH, LATENT), []
    for name, decoder in decoders().items():
        calls = {use: make_decode_call(decoder, latents, use_cache=use) for use in (True, False)}
        assert torch.equal(calls[True](), calls[False]()), f"{name}: decoding with and without cache differs"
        times = clock.medians({"cached": calls[True], "uncached": calls[False]}, rounds=5, budget=60.0)
        cached, uncached = times["cached"].time, times["uncached"].time
        rows.append([name, f"{cached:.2f} s", f"{uncached:.2f} s", f"{uncached / cached:.1f}"])
    text = table(("decoder", "cached", "uncached", "ratio"), rows)
    print(text)
    if args.write:
        about = (__doc__ or "").split("\n\n")[-1].strip()
        made = provenance("torch", "transformers")
        write_section("latent_decoding", f"## Texts from latents, cached\n\n{made} {about}\n\n{text}")


if __name__ == "__main__":
    main()
