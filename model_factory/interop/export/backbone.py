"""An adapted backbone back in its own class of transformers: with the mask's row, and what its use needs in config.json."""

from typing import Any

import torch
from torch import Tensor, nn

from model.denoisers.hugging_face import HuggingFaceDenoiser
from model.discrete.model import DiffusionModel
from model.transformer.inputs import InputError

KEY = "model_factory"
"""Key of config.json with the facts that transformers has no place for."""


def find_adapted(network: nn.Module) -> HuggingFaceDenoiser | None:
    """Return the pretrained backbone of a diffusion model, None if it has another network."""
    found = network.network if isinstance(network, DiffusionModel) else None
    return found if isinstance(found, HuggingFaceDenoiser) else None


def find_mask_id(network: nn.Module) -> int | None:
    """Return the token id of a denoiser's mask in the exported model; None for noise without a mask and other models."""
    if not isinstance(network, DiffusionModel):
        return None
    adapted = find_adapted(network)
    inside = None if adapted is None else adapted.mask_token_id
    return network.process.graph.mask_token if inside is None else inside


def check_own_class(denoiser: HuggingFaceDenoiser) -> None:
    """Raise InputError for a backbone with an embedding of the noise level or of a condition, and for one with an encoder."""
    if denoiser.cross_attention is not None:
        raise InputError(
            "the backbone reads sources by cross-attentions of ours, which its own class in transformers cannot hold; export "
            "it as a graph, --format torch or onnx, or train without backbone.encoder, with sources in the rows"
        )
    if denoiser.told is not None:
        raise InputError(
            "the backbone has an embedding of the noise level or of a condition, which its own class in transformers "
            "cannot hold; train with model.time_conditioning: false and without condition to export it"
        )


@torch.no_grad()
def backbone_reference(denoiser: HuggingFaceDenoiser, ids: Tensor) -> tuple[Tensor, Tensor, list[int]]:
    """Return tokens int [B, L] as the exported model takes them, its logits for them, and the ids whose logits count.

    The mask is never predicted, so its logit is not compared.
    """
    mask = denoiser.num_tokens if denoiser.mask_token_id is None else denoiser.mask_token_id
    kept = [index for index in range(denoiser.num_tokens) if index != mask]
    given = ids.masked_fill(ids == denoiser.num_tokens, mask)
    return given, denoiser.logits(ids)[..., kept], kept


def unwrap_backbone(network: DiffusionModel, denoiser: HuggingFaceDenoiser) -> Any:
    """Return the pretrained model with the mask as its last token, changed in place.

    `config.json` gets `mask_token_id`, `is_causal: false` and the key `model_factory`: whether logits are those of the
    next token, and process, objective and schedule.
    """
    model: Any = denoiser.model
    mask = find_mask_id(network)
    if denoiser.mask_embedding is not None:
        _append_row(model, denoiser.mask_embedding)
    config = network.diffusion_config
    model.config.is_causal = False
    model.config.mask_token_id = mask
    sections = {name: getattr(config, name).model_dump(mode="json") for name in ("process", "objective", "schedule")}
    setattr(model.config, KEY, {"logits_shift": int(denoiser.shifted), **sections})
    return model


@torch.no_grad()
def _append_row(model: Any, mask_embedding: Tensor) -> None:
    """Add the embedding of the mask as a row; its row in the head is zero unless the head is the embedding."""
    rows = model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(rows + 1, mean_resizing=False)
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    if head is not None and head.weight is not table:
        head.weight[-1] = 0.0
    table[-1] = mask_embedding
    if head is not None and getattr(head, "bias", None) is not None:
        head.bias[-1] = 0.0


@torch.no_grad()
def logits_of_backbone(model: Any, ids: Tensor) -> Tensor:
    """Return the denoiser's logits [B, L, V] of noisy tokens int [B, L], by a reloaded model and its config alone.

    `is_causal: false` makes the attention bidirectional; the shift is left to the caller, as here.
    """
    logits: Tensor = model(input_ids=ids).logits
    shifted = getattr(model.config, KEY)["logits_shift"]
    return torch.cat([logits[:, :1], logits[:, :-1]], 1) if shifted else logits
