"""Folder that `from_pretrained` of transformers loads: config.json, generation_config.json and model.safetensors."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

import model_factory.interop.hf  # noqa: F401  # registers our classes
from model.discrete.model import DiffusionModel
from model.transformer.inputs import InputError
from model.transformer.performer import EncoderDecoderTransformer, PerformerDecoder, PerformerEncoder
from model_factory.interop.export.backbone import (
    backbone_reference,
    check_own_class,
    find_adapted,
    logits_of_backbone,
    unwrap_backbone,
)
from model_factory.interop.export.parity import check_equal, example_ids, what_to_use
from model_factory.interop.hf.config import make_hub_config
from model_factory.interop.hf.decoder import ModelFactoryForCausalLM
from model_factory.interop.hf.denoiser import ModelFactoryDenoiser
from model_factory.interop.hf.encoder import ModelFactoryEncoder
from model_factory.interop.hf.encoder_decoder import ModelFactoryForSeq2SeqLM
from model_factory.training.tasks.sequence_classification import SequenceClassifier

if TYPE_CHECKING:
    from model_factory.evaluation.run import LoadedRun

_CLASSES: tuple[tuple[type[nn.Module], Any, Any], ...] = (
    (PerformerDecoder, ModelFactoryForCausalLM, AutoModelForCausalLM),
    (PerformerEncoder, ModelFactoryEncoder, AutoModel),
    (EncoderDecoderTransformer, ModelFactoryForSeq2SeqLM, AutoModelForSeq2SeqLM),
    (DiffusionModel, ModelFactoryDenoiser, AutoModel),
)


def write_hf(run: "LoadedRun", folder: Path) -> dict[str, str]:
    """Write the run's model for transformers, load it again and compare its output; return what was written.

    A pretrained backbone goes back to its own class. Raises InputError for a model without a class, ParityError for
    another output.
    """
    network = run.model
    adapted = find_adapted(network)
    if adapted is not None:
        assert isinstance(network, DiffusionModel)
        check_own_class(adapted)
        ids, wanted, kept = backbone_reference(adapted, example_ids(network, 2, 8))
        model = unwrap_backbone(network, adapted)
        model.save_pretrained(str(folder))
        auto = AutoModelForCausalLM if adapted.is_adapted else AutoModelForMaskedLM
        again = auto.from_pretrained(str(folder), dtype=model.dtype).eval()
        check_equal("model.safetensors", logits_of_backbone(again, ids)[..., kept], wanted)
        loading = auto.__name__
    else:
        wrapper, auto = _find_classes(network)
        ids = example_ids(network, 2, 8)
        wanted = _output(network, ids)
        assert run.config.model is not None
        config = make_hub_config(run.config.model, network, run.tokenizer)
        wrapper(config, network).save_pretrained(str(folder))
        again = auto.from_pretrained(str(folder), dtype=next(network.parameters()).dtype).eval()
        check_equal("model.safetensors", _output(again.network, ids), wanted)
        loading = f"{auto.__name__}, after import model_factory.interop.hf"
    parameters = sum(parameter.numel() for parameter in again.parameters())
    return {"class": type(again).__name__, "load with": loading, "parameters": f"{parameters:,}"}


def _find_classes(network: nn.Module) -> tuple[Any, Any]:
    """Return our class and its Auto class for a network; raise InputError for a network with parts of a task."""
    instead = "export it as torch or onnx" if isinstance(network, SequenceClassifier) else what_to_use(network)
    for kind, wrapper, auto in _CLASSES:
        if type(network) is kind:
            return wrapper, auto
    raise InputError(
        f"a {type(network).__name__} has no class of transformers ({instead}); decoders, encoders without a task's head, "
        "encoder-decoders and discrete diffusion models can be exported as hf"
    )


@torch.no_grad()
def _output(network: nn.Module, ids: Tensor) -> Tensor:
    """Return the output of a network for tokens: of an encoder-decoder with themselves as the source."""
    if isinstance(network, EncoderDecoderTransformer):
        found: Tensor = network(ids, ids)
    elif isinstance(network, DiffusionModel):
        context = network.encode(ids % network.num_tokens) if network.has_encoder else {}  # a source has no masks
        found = network.denoise(ids, 0.5, **context)
    else:
        found = network(ids)
    return found
