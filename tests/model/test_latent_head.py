"""The reconstruction loss of latent decoders in chunks: that of all logits, with gradients, and fewer numbers at once."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import model.latent.decoder as decoder_module
from model.latent.decoder import LatentDecoder, text_loss
from tests.model import shipped, tiny

SECTIONS = shipped.latent_sections()
BERT_AND_GPT2 = SECTIONS["latent bert and gpt2"]
CASES: dict[str, dict[str, Any]] = {
    "performer": SECTIONS["latent linear"],
    "lm_head": BERT_AND_GPT2,
    "head of Hugging Face": {
        **BERT_AND_GPT2,
        "decoder": {"type": "hugging_face", "architecture": "gpt2", **shipped.PART, "dropout": 0.0},
    },
}
CHUNK = 7


class Largest(TorchDispatchMode):
    """Record of the most rows of logits of one operation's output."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.ndim > 1 and out.shape[-1] == shipped.VOCAB:
            self.rows = max(self.rows, out.numel() // shipped.VOCAB)
        return out


def loss_of(decoder: Any, form: str) -> tuple[Tensor, Tensor]:
    """Return the losses of rows, and the gradients of the latent and the weights of a weighted sum of them."""
    ids = shipped.tokens()[:4]
    mask = tiny.lengths_mask([32, 20, 2, 1], shipped.LENGTH)
    latent = torch.randn(4, decoder.latent_size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    latent.requires_grad_()
    nats = decoder.nats(ids, latent, mask) if form == "chunks" else text_loss(decoder(ids, latent)[0], ids, mask)
    decoder.zero_grad()
    (nats * torch.arange(1, 5)).sum().backward()
    parts = [latent.grad, *(p.grad for p in decoder.parameters() if p.grad is not None)]
    return nats.detach(), torch.cat([part.flatten() for part in parts if part is not None])


@pytest.mark.parametrize("name", CASES)
def test_chunks_have_the_loss_and_gradients_of_logits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = shipped.build(CASES[name], tmp_path)
    decoder = model.decoder.double()
    assert isinstance(decoder, LatentDecoder)
    wanted, gradients = loss_of(decoder, "logits")
    monkeypatch.setattr(decoder_module, "chunk_rows", lambda size, device: CHUNK)
    with Largest() as largest:
        found, ours = loss_of(decoder, "chunks")
    assert largest.rows <= max(CHUNK, shipped.PART["hidden_size"])  # the gradient of the table is [width, V]
    assert float(wanted[-1]) == float(found[-1]) == 0  # a row with its first token alone
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert tiny.gap(ours, gradients) < 1e-12
