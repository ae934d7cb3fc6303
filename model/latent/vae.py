"""The variational autoencoder of texts over two tokenizers, with its published name and interface."""

import os
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from model.latent.abstract import VAE_Abs
from model.latent.decoder import LatentDecoder
from model.latent.encoder import LatentEncoder
from model.latent.types import PUBLISHED_VARIANCE
from model.latent.variational import kl_cost, kl_divergence
from model.transformer.inputs import InputError, describe, has_values

_REMEDIES = {
    "pad": "tokenizer.add_special_tokens({'pad_token': '<PAD>'})",
    "bos": "tokenizer.add_special_tokens({'bos_token': '<BOS>'})",
    "eos": "tokenizer.add_special_tokens({'eos_token': '<EOS>'})",
}


class VAE(VAE_Abs):
    """Variational autoencoder of texts (Optimus, Li et al. 2020, arXiv 2004.04092).

    Arguments:
        encoder, decoder: connectors, the decoder's with a language head, or any `LatentEncoder` and `LatentDecoder`.
        tokenizer_encoder, tokenizer_decoder: have `pad_token_id`, the decoder's also `bos_token_id` and `eos_token_id`.
        latent_size: size of the latent, equal in encoder and decoder.
        output_dir: default folder of `save_pretrained()`.
        device: device to move encoder and decoder to; None: leave them.
        variance: None: learnt; a number: fixed for every coordinate.
        kl_weight: weight of the KL beside the reconstruction.
        free_bits: nats of each coordinate below which the KL costs nothing.
        compat: "dmlp" as published: variance 0.008, and the KL returned but not optimised.
    Raises InputError for sizes that differ, for a tokenizer without a required token, and for one whose padding is also
    its end-of-text token, which would then never be learnt.
    """

    encoder: LatentEncoder
    decoder: LatentDecoder

    def __init__(
        self,
        encoder: LatentEncoder,
        decoder: LatentDecoder,
        tokenizer_encoder: Any,
        tokenizer_decoder: Any,
        latent_size: int,
        output_dir: str | os.PathLike[str] | None = None,
        device: torch.device | str | None = None,
        *,
        variance: float | None = None,
        kl_weight: float = 1.0,
        free_bits: float = 0.0,
        compat: Literal["dmlp"] | None = None,
    ) -> None:
        super().__init__(encoder, decoder, device=device)
        for name, size in (("encoder", encoder.latent_size), ("decoder", decoder.latent_size)):
            if size != latent_size:
                raise InputError(f"the {name}'s latent_size is {size}, and the VAE's {latent_size}; they must be equal")
        self.tokenizer_encoder, self.tokenizer_decoder = tokenizer_encoder, tokenizer_decoder
        self.latent_size, self.output_dir = latent_size, output_dir
        self.variance = PUBLISHED_VARIANCE if compat else variance
        self.kl_weight, self.free_bits = (0.0, 0.0) if compat else (kl_weight, free_bits)
        self.encoder_pad = _require_token(tokenizer_encoder, "pad", "tokenizer_encoder")
        self.decoder_pad = _require_token(tokenizer_decoder, "pad", "tokenizer_decoder")
        self.bos_token, self.eos_token = (
            _require_token(tokenizer_decoder, role, "tokenizer_decoder") for role in ("bos", "eos")
        )
        if self.decoder_pad == self.eos_token:
            raise InputError(
                f"tokenizer_decoder pads with its end-of-text token {self.eos_token}, which the loss ignores, so that "
                f"the model would never learn to end a text; set another padding token: {_REMEDIES['pad']}"
            )
        if device is not None:
            self.to(device)

    def encode(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and logvar [B, latent_size] of the encoder's ids int [B, N]; raise InputError for empty texts."""
        mu, logvar = self.encoder.moments(inputs, inputs != self.encoder_pad)
        if self.variance is not None:
            logvar = torch.full_like(mu, self.variance).log()
        return mu, logvar

    def reparametrized(self, mu: Tensor, logvar: Tensor, nsamples: int = 1) -> Tensor:
        """Call `reparameterize`, by its published name; return [B, latent_size] for one sample."""
        drawn = self.reparameterize(mu, logvar, nsamples)
        return drawn.squeeze(1) if nsamples == 1 else drawn

    def forward(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return (loss_rec, loss_kl, loss, latent_z, mu) of the same texts in both tokenizers.

        `inputs` int [B, N] and `labels` int [B, M] are padded. loss_rec [B] is in nats a text, loss_kl [B] in nats.
        loss [B] is (loss_rec + kl_weight * cost of the KL) / length, with the number of tokens of labels as length.
        latent_z and mu are [B, latent_size]. Raises InputError for a batch with empty texts.
        """
        if labels.dim() != 2 or inputs.dim() != 2 or len(labels) != len(inputs):
            raise InputError(
                f"inputs are {describe(inputs)} and labels {describe(labels)}; they must be the same texts, "
                "int [B, N] and [B, M]"
            )
        lengths = (labels != self.decoder_pad).sum(1)
        if has_values(lengths) and not bool((lengths > 1).all()):
            empty = (lengths <= 1).nonzero()[:, 0].tolist()
            raise InputError(
                f"labels {describe(labels)}: texts {empty[:5]} have no token to predict after the first (padding is "
                f"{self.decoder_pad}); drop them, or end each text with {self.eos_token}"
            )
        mu, logvar = self.encode(inputs)
        latent_z = self.reparametrized(mu, logvar)
        loss_rec = self.decoder(input_ids=labels, past=latent_z, labels=labels, label_ignore=self.decoder_pad)[0]
        kl = kl_divergence(mu, logvar)
        loss = loss_rec if not self.kl_weight else loss_rec + self.kl_weight * kl_cost(kl, self.free_bits)
        return loss_rec, kl.sum(-1), loss / lengths, latent_z, mu

    def generate(self, latent: Tensor, max_new_tokens: int, **options: Any) -> Tensor:
        """Decode latents [B, latent_size] to texts int64 [B, 1 + T]; options are those of `LatentDecoder.generate`."""
        ends = {"eos_token": self.eos_token, "pad_token": self.decoder_pad}
        return self.decoder.generate(latent, self.bos_token, max_new_tokens, **(ends | options))

    def save_pretrained(self, folder: str | os.PathLike[str] | None = None) -> None:
        """Write encoder, decoder and tokenizers to a folder, by default `output_dir`; raise InputError without one."""
        target = self.output_dir if folder is None else folder
        if target is None:
            raise InputError("save_pretrained needs a folder: pass one, or set output_dir of the VAE")
        for name in ("encoder", "decoder"):
            part: Any = getattr(self, name)
            if not hasattr(part, "save_pretrained"):
                raise InputError(f"the {name} is a {type(part).__name__}, and only connectors have save_pretrained")
            part.save_pretrained(Path(target) / name)
            tokenizer = getattr(self, f"tokenizer_{name}")
            if hasattr(tokenizer, "save_pretrained"):
                tokenizer.save_pretrained(str(Path(target) / name))


def _require_token(tokenizer: Any, role: str, name: str) -> int:
    """Return the id of a tokenizer's special token; raise InputError with a remedy if it is not set."""
    found = getattr(tokenizer, f"{role}_token_id", None)
    if found is None:
        words = {"pad": "padding", "bos": "beginning-of-text", "eos": "end-of-text"}[role]
        raise InputError(
            f"{name} has no {words} token; set one: {_REMEDIES[role]}, and resize the model: "
            f"{name.removeprefix('tokenizer_')}.resize_token_embeddings(len(tokenizer))"
        )
    return int(found)
