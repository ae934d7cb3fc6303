"""How a latent enters a decoder: as an embedding, a memory, something to attend to, or a soft prompt.

embedding         added to the embedding of every token (Optimus, Li et al. 2020, arXiv 2004.04092)
memory            keys and values of P slots in front of the tokens, in every layer (Optimus; prefix-tuning, Li 2021)
cross_attention   P vectors that every layer attends to
soft_prompt       P vectors in front of the tokens' embeddings (Lester et al. 2021, arXiv 2104.08691)
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from torch import Tensor, nn

from model.inputs import InputError, describe

Route = Literal["embedding", "memory", "cross_attention", "soft_prompt"]
ROUTES: tuple[Route, ...] = get_args(Route)


class DecoderShape(NamedTuple):
    """Sizes of a decoder that its latent has to fit: width of embeddings, layers, and heads of keys and their width."""

    width: int
    num_layers: int
    num_kv_heads: int
    head_dim: int


class Injected(NamedTuple):
    """A latent in a decoder's own terms; what a route is not taken for is None."""

    embedding: Tensor | None
    """[B, 1, width]."""
    memory: list[Tensor] | None
    """One for each layer, [B, num_kv_heads, P, head_dim]: key and value are the same, as in Optimus."""
    context: Tensor | None
    """[B, P, width]."""
    prompt: Tensor | None
    """[B, P, width]."""

    @property
    def num_slots(self) -> int:
        """Places that memory or prompt take in front of the tokens."""
        memory = self.memory[0].shape[2] if self.memory else 0
        return memory + (0 if self.prompt is None else self.prompt.shape[1])


class Injection(nn.Module):
    """Linear layers without bias from a latent [B, latent_size] to what each of `routes` needs.

    `linear` (memory) and `linear_emb` (embedding) have their published names. Raises ValueError without a route.
    """

    def __init__(self, latent_size: int, shape: DecoderShape, routes: Sequence[Route], num_slots: int = 1) -> None:
        super().__init__()
        unknown = [route for route in routes if route not in ROUTES]
        if unknown or not routes:
            given = f"unknown {unknown[0]!r}" if unknown else "nothing"
            raise ValueError(f"a latent enters a decoder through {given}; one or more of {', '.join(ROUTES)} fit")
        self.latent_size, self.shape, self.num_slots = latent_size, shape, num_slots
        slots = num_slots * shape.width
        cached = num_slots * shape.num_layers * shape.num_kv_heads * shape.head_dim
        sizes = {"linear_emb": shape.width, "linear": cached, "linear_context": slots, "linear_prompt": slots}
        taken = dict(zip(sizes, ("embedding", "memory", "cross_attention", "soft_prompt"), strict=True))
        for name, size in sizes.items():
            layer = nn.Linear(latent_size, size, bias=False) if taken[name] in routes else None
            self.register_module(name, layer)

    def forward(self, latent: Tensor) -> Injected:
        """What a decoder takes of latents [B, latent_size]; raises InputError for another size."""
        if not isinstance(latent, Tensor) or latent.dim() != 2 or latent.shape[1] != self.latent_size:
            raise InputError(
                f"the latent is {describe(latent)}, and this decoder takes float [B, {self.latent_size}]: encoder, "
                "decoder and denoiser must have the same latent size"
            )
        width, slots = self.shape.width, self.num_slots
        latent = latent.to(next(self.parameters()).dtype)

        def through(name: str, *shape: int) -> Tensor | None:
            layer = getattr(self, name)
            return None if layer is None else layer(latent).view(len(latent), *shape)

        found = through("linear", self.shape.num_layers, slots, self.shape.num_kv_heads, self.shape.head_dim)
        memory = None if found is None else list(found.transpose(2, 3).unbind(1))
        return Injected(
            through("linear_emb", 1, width),
            memory,
            through("linear_context", slots, width),
            through("linear_prompt", slots, width),
        )
