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


def unwrap_backbone(network: DiffusionModel, denoiser: HuggingFaceDenoiser) -> Any:
    """Return the pretrained model with the mask as its last token, changed in place.

    `config.json` gets `mask_token_id`, `is_causal: false` and the key `model_factory`: whether logits are those of the
    next token, and process, objective and schedule. Raises InputError for a backbone with an embedding of the noise
    level or of a condition, which its own class has no place for.
    """
    if denoiser.told is not None:
        raise InputError(
            "the backbone has an embedding of the noise level or of a condition, which its own class in transformers "
            "cannot hold; train with model.time_conditioning: false and without condition to export it"
        )
    model: Any = denoiser.model
    mask = getattr(denoiser, "mask_token_id", None)
    if denoiser.mask_embedding is not None:
        mask = denoiser.num_tokens
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

    This is what another program has to do: a full attention mask for a causal architecture, and the shift.
    """
    shift = getattr(model.config, KEY)["logits_shift"]
    options: dict[str, Tensor] = {}
    if shift:
        options["attention_mask"] = torch.zeros(len(ids), 1, ids.shape[1], ids.shape[1], dtype=model.dtype)
    logits: Tensor = model(input_ids=ids, **options).logits
    return torch.cat([logits[:, :1], logits[:, :-1]], 1) if shift else logits
