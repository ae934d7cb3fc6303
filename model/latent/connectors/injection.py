"""Injection of a latent into a decoder, by one or more routes. A route feeds one of four inputs:

embedding         added to the embedding of every token (Optimus, Li et al. 2020, arXiv 2004.04092)
memory            kv prefix: keys and values of P slots in every layer (Optimus; prefix-tuning, Li and Liang 2021)
cross_attention   P vectors that every layer attends to
soft_prompt       P vectors in front of the tokens' embeddings (Lester et al. 2021, arXiv 2104.08691)
"""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from torch import Tensor, nn

from model.latent.registry import LATENT_ROUTES, RouteTarget, resolve_part
from model.transformer.inputs import InputError, describe
from model_factory.yaml_config.from_registry import name_of
from model_factory.yaml_config.strict_model import StrictModel

_LAYERS: dict[RouteTarget, str] = {
    "embedding": "linear_emb",
    "memory": "linear",
    "cross_attention": "linear_context",
    "soft_prompt": "linear_prompt",
}
"""Names of the layers in a checkpoint; those of embedding and memory are the published ones."""


class DecoderShape(NamedTuple):
    """Sizes of a decoder: width of embeddings, number of layers, number of key-value heads and their width."""

    width: int
    num_layers: int
    num_kv_heads: int
    head_dim: int


class Injected(NamedTuple):
    """Inputs of a decoder computed from a latent; an input that no route feeds is None."""

    embedding: Tensor | None
    """[B, 1, width]."""
    memory: list[Tensor] | None
    """kv prefix of each layer, [B, num_kv_heads, P, head_dim]: keys and values are equal, as in Optimus."""
    context: Tensor | None
    """[B, P, width]."""
    prompt: Tensor | None
    """[B, P, width]."""

    @property
    def num_slots(self) -> int:
        """Return the number of positions that memory and prompt take in front of the tokens."""
        memory = self.memory[0].shape[2] if self.memory else 0
        return memory + (0 if self.prompt is None else self.prompt.shape[1])


class Injection(nn.Module):
    """Layers from a latent [B, latent_size] to the decoder input that each of `routes` feeds.

    A built-in route is a linear layer without bias. Raises ValueError for an unknown route, without a route, and if two
    routes feed the same input.
    """

    def __init__(
        self, latent_size: int, shape: DecoderShape, routes: Sequence[StrictModel | str], num_slots: int = 1
    ) -> None:
        super().__init__()
        if not routes:
            raise ValueError(f"routes is empty; use one or more of {', '.join(LATENT_ROUTES)}")
        chosen = {entry.target: (entry, section) for entry, section in (resolve_part(LATENT_ROUTES, r) for r in routes)}
        if len(chosen) < len(routes):
            names = ", ".join(name_of(route) for route in routes)
            raise ValueError(f"two of the routes {names} feed the same input of the decoder; keep one of them")
        self.latent_size, self.shape, self.num_slots = latent_size, shape, num_slots
        slots = num_slots * shape.width
        cached = num_slots * shape.num_layers * shape.num_kv_heads * shape.head_dim
        sizes = {"embedding": shape.width, "memory": cached, "cross_attention": slots, "soft_prompt": slots}
        for target, name in _LAYERS.items():
            entry, section = chosen.get(target, (None, None))
            layer = None if entry is None else entry.build(section, latent_size, sizes[target])
            self.register_module(name, layer)

    def forward(self, latent: Tensor) -> Injected:
        """Compute the decoder inputs of latents [B, latent_size]; raise InputError for another size."""
        if not isinstance(latent, Tensor) or latent.dim() != 2 or latent.shape[1] != self.latent_size:
            raise InputError(
                f"the latent is {describe(latent)}, and this decoder takes float [B, {self.latent_size}]: encoder, "
                "decoder and denoiser must have the same latent size"
            )
        width, slots = self.shape.width, self.num_slots
        latent = latent.to(next(self.parameters(), latent).dtype)

        def apply(name: str, *shape: int) -> Tensor | None:
            layer = getattr(self, name)
            if layer is None:
                return None
            found: Tensor = layer(latent)
            if found.numel() != prod((len(latent), *shape)):
                expected = [len(latent), prod(shape)]
                raise InputError(f"the route's {type(layer).__name__} returns {describe(found)}; it must be {expected}")
            return found.reshape(len(latent), *shape)

        found = apply("linear", self.shape.num_layers, slots, self.shape.num_kv_heads, self.shape.head_dim)
        memory = None if found is None else list(found.transpose(2, 3).unbind(1))
        return Injected(
            apply("linear_emb", 1, width),
            memory,
            apply("linear_context", slots, width),
            apply("linear_prompt", slots, width),
        )
