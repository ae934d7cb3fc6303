"""Encoders by which a denoiser reads a source once, for cross-attention in all of its network calls."""

from typing import Any

import torch
from torch import Tensor, nn

from model.denoisers.encoder_types import CONTEXT_ENCODERS, HuggingFaceContextConfig, PerformerContextConfig
from model.denoisers.pretrained import PretrainedError
from model.latent.checks import check_ids, check_length, max_positions_of
from model.latent.connectors.hugging_face import encoder_of, load_config
from model.transformer.inputs import check_mask
from model.transformer.performer import PerformerEncoder


class SourceEncoder(nn.Module):
    """Encoder of a backbone's section, its projection to the denoiser's width, and the context of no source.

    Arguments:
        config: view of the backbone section, with `encoder`, `device`, `num_tokens` and `source_dropout`.
        width: of the denoiser's residual stream.
    `null` is the learned context of rows without their source, None if the model is trained with all of them.
    """

    trained_beside_adapters: tuple[str, ...] = ()
    """Parts that are trained even if adapters freeze the rest; a pretrained denoiser sets it to `new_parts`."""

    def __init__(self, config: Any, width: int) -> None:
        super().__init__()
        values = dict(config.encoder)
        entry = CONTEXT_ENCODERS.get(values["type"])
        values |= {"device": config.device} if "device" in entry.config_type.model_fields else {}
        section = entry.config_type.model_construct(**values)
        self.encoder: nn.Module = entry.build(section, config.num_tokens)
        own: int = self.encoder.width
        self.project = nn.Identity() if own == width else nn.Linear(own, width)
        self.null = nn.Parameter(torch.randn(width) * width**-0.5) if config.get("source_dropout") else None

    @property
    def new_parts(self) -> tuple[str, ...]:
        """Names of the parts whose weights are not pretrained."""
        return ("project", "null", *(() if isinstance(self.encoder, PretrainedEncoder) else ("encoder",)))

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode sources int [B, M] to [B, M, width]; mask bool [B, M] is True at real tokens. Raises InputError."""
        check_mask(mask, ids, "context_mask")
        context: Tensor = self.project(self.encoder(ids, mask))
        return context


class OwnEncoder(nn.Module):
    """A `PerformerEncoder` without a head."""

    def __init__(self, config: PerformerContextConfig, num_tokens: int) -> None:
        super().__init__()
        self.stack = PerformerEncoder(config.model_copy(update={"vocab_size": num_tokens}), has_head=False)
        self.width = config.d_model

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode int [B, M] to [B, M, width]."""
        return self.stack.hidden(ids, mask)


class PretrainedEncoder(nn.Module):
    """An encoder of Hugging Face, whose tokenizer must be that of the data; with `freeze` it is not trained.

    Raises HubError and ConnectorError if it cannot be loaded, PretrainedError for another vocabulary.
    """

    def __init__(self, config: HuggingFaceContextConfig, num_tokens: int) -> None:
        super().__init__()
        hf_config = load_config(config.path)
        model: Any = encoder_of(hf_config, config.path)
        if getattr(model, "pooler", None) is not None:
            model.pooler = None  # no output that is read depends on it
        self.model: nn.Module = model
        self.width, self.is_frozen = hf_config.hidden_size, config.freeze
        self.num_tokens: int = model.get_input_embeddings().num_embeddings
        if num_tokens > self.num_tokens:
            raise PretrainedError(
                f"encoder hugging_face: {config.path} has {self.num_tokens} tokens, and the data set's tokenizer {num_tokens}; "
                f"use the pretrained model's tokenizer: {{type: hugging_face, path: {config.path}}}"
            )
        if config.freeze:
            self.model.requires_grad_(False)

    def train(self, mode: bool = True) -> "PretrainedEncoder":
        """Set the mode of training; a frozen encoder stays without dropout."""
        super().train(mode)
        if self.is_frozen:
            self.model.eval()
        return self

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode int [B, M] to [B, M, width]; raises InputError for more tokens than positions."""
        mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        ids = ids.masked_fill(~mask, 0)
        check_ids(ids, self.num_tokens)
        check_length(ids.shape[1], max_positions_of(self.model.config), "encoder")
        hidden: Tensor = self.model(input_ids=ids, attention_mask=mask.long())[0]
        return hidden
