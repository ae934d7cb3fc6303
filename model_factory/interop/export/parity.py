"""Comparison of an exported model with the run's, on example inputs."""

import torch
from torch import Tensor, nn

from model.discrete.model import DiffusionModel
from model.latent.model import LatentDiffusionModel
from model.transformer.inputs import InputError
from model.transformer.performer import EncoderDecoderTransformer
from model.transformer.stack import PerformerStack
from model_factory.training.tasks.sequence_classification import SequenceClassifier
from model_factory.training.tasks.speech_front import SpeechEncoder
from model_factory.yaml_config.exit_codes import FAILED


class ParityError(ValueError):
    """Exported files that give other outputs than the run's model."""

    exit_code = FAILED


def what_to_use(network: nn.Module) -> str:
    """Return a sentence on what to use for a network that cannot be exported."""
    if isinstance(network, LatentDiffusionModel):
        return (
            "its texts come from several networks and a sampler, not from one: serve them with model-factory serve, or "
            "draw them with generate.py"
        )
    if isinstance(network, SpeechEncoder):
        return (
            "it takes features that lhotse computes of recordings: transcribe them with generate.py --input, or load the "
            "run with model_factory.load_run"
        )
    return "load the run in Python with model_factory.load_run"


def number_of_ids(network: nn.Module) -> int | None:
    """Return the number of token ids that a network takes, a denoiser's mask among them; None if it takes features."""
    if isinstance(network, DiffusionModel):
        return network.process.graph.dim
    if isinstance(network, EncoderDecoderTransformer):
        stacks: tuple[PerformerStack, ...] = (network.encoder, network.decoder)
    else:
        stack = _stack_of(network)
        stacks = () if stack is None else (stack,)
    sizes = [stack.params.vocab_size for stack in stacks if stack.input.embedding is not None]
    return min((size for size in sizes if size is not None), default=None)


def _stack_of(network: nn.Module) -> PerformerStack | None:
    """Return an encoder or decoder itself, or that of a classifier; None for another network."""
    found = network.encoder if isinstance(network, SequenceClassifier) else network
    return found if isinstance(found, PerformerStack) else None


def example_ids(network: nn.Module, batch: int, length: int) -> Tensor:
    """Return random tokens int64 [batch, length], the same at every call, or features float [batch, length, width].

    Raises InputError for a network that takes neither.
    """
    generator = torch.Generator().manual_seed(batch * 10_007 + length)
    count = number_of_ids(network)
    if count is None:
        stack = _stack_of(network)
        if stack is None:
            raise InputError(f"a {type(network).__name__} takes no tokens, so its export cannot be compared")
        return torch.randn(batch, length, stack.input.width, generator=generator)
    return torch.randint(0, count, (batch, length), generator=generator)


def check_equal(name: str, found: Tensor, wanted: Tensor, tolerance: float = 0.0) -> float:
    """Return the largest difference of two outputs [B, ...]; raise ParityError if it is above `tolerance` times the largest wanted value.

    Values that are not finite must be the same in both.
    """
    if found.shape != wanted.shape:
        raise ParityError(f"{name} gives an output {list(found.shape)} instead of {list(wanted.shape)}")
    finite = torch.isfinite(wanted)
    if not torch.equal(finite, torch.isfinite(found)):
        raise ParityError(f"{name} gives NaN or infinite values where the run gives none, or the reverse")
    gap = float((found[finite].double() - wanted[finite].double()).abs().max()) if bool(finite.any()) else 0.0
    scale = max(1.0, float(wanted[finite].abs().max())) if bool(finite.any()) else 1.0
    if gap > tolerance * scale:
        raise ParityError(
            f"{name} gives outputs that differ from the run's by {gap:.2g}; at most {tolerance * scale:.2g}"
        )
    return gap
