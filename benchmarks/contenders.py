"""Attention operations to compare, on the same q, k and v [1, heads, N, head_dim], float32."""

from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


class Shape(NamedTuple):
    """Number of heads, their width, and the number of random features of the linear contenders."""

    heads: int
    head_dim: int
    nb_features: int


SHAPE = Shape(8, 64, 256)
OURS, PERFORMER, X_TRANSFORMERS, SDPA = "model_factory", "performer-pytorch", "x-transformers", "SDPA"


@cache
def attention(name: str, form: str, shape: Shape) -> Attention:
    """Build the contender `name`, causal or full; linear ones with projections drawn from seed 0."""
    is_causal = form == "causal"
    torch.manual_seed(0)
    if name == OURS:
        return _linear_core(shape, is_causal)
    if name == PERFORMER:
        from performer_pytorch.performer_pytorch import FastAttention

        with redirect_stdout(StringIO()):  # it prints that no CUDA code was found
            module: Any = FastAttention(shape.head_dim, shape.nb_features, causal=is_causal)
        return module.eval()
    if name == X_TRANSFORMERS:
        from x_transformers.attend import Attend

        attend: Any = Attend(causal=is_causal, flash=True)
        return lambda q, k, v: attend(q, k, v)[0]
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)


def _linear_core(shape: Shape, is_causal: bool) -> Attention:
    from model.attention.cores import LinearCore
    from model.attention.feature_maps import FavorPlus
    from model.attention.feature_redraw import orthogonal_projections

    features = FavorPlus(shape.head_dim, shape.nb_features)
    features.projection_matrix.copy_(orthogonal_projections(shape.nb_features, shape.head_dim, 0))
    core = LinearCore(features)
    return lambda q, k, v: core(q, k, v, causal=is_causal)


def make_call(name: str, form: str, shape: Shape, tokens: int, *, backward: bool) -> Callable[[], object]:
    """Return a call of a contender on fixed inputs: forward without a graph, or forward and backward."""
    attend = attention(name, form, shape)
    generator = torch.Generator().manual_seed(1)
    size = (1, shape.heads, tokens, shape.head_dim)
    q, k, v, gradient = (torch.randn(size, generator=generator) for _ in range(4))

    def forward() -> Tensor:
        with torch.no_grad():
            return attend(q, k, v)

    def forward_backward() -> tuple[Tensor, ...]:
        inputs = [x.detach().requires_grad_() for x in (q, k, v)]
        return torch.autograd.grad(attend(*inputs), inputs, gradient)

    return forward_backward if backward else forward
