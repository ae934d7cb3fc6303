"""Position-wise feed-forward layer, plain or gated (GLU variants: Shazeer 2020, arXiv 2002.05202)."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from model.activations import ActivationFunctions
from model.types import PerformerParams

ACTIVATIONS: dict[ActivationFunctions, Callable[[Tensor], Tensor]] = {
    ActivationFunctions.GELU: F.gelu,
    ActivationFunctions.RELU: F.relu,
    ActivationFunctions.SILU: F.silu,
    ActivationFunctions.GEGLU: F.gelu,
    ActivationFunctions.REGLU: F.relu,
    ActivationFunctions.SWIGLU: F.silu,
}
"""Function of each activation; the gated ones apply it to the gate alone."""


class FeedForward(nn.Module):
    """Two projections with an activation between them; the inner width is `d_ff * d_model`.

    With a gated activation the first projection has twice that width, and is split into a value and its gate.
    """

    is_positionwise = True

    def __init__(self, params: PerformerParams) -> None:
        super().__init__()
        inner = params.d_ff * params.d_model
        self.is_gated = params.activation.is_gated
        self.activation = ACTIVATIONS[params.activation]
        self.to_inner = nn.Linear(params.d_model, 2 * inner if self.is_gated else inner)
        self.dropout = nn.Dropout(params.dropout)
        self.to_out = nn.Linear(inner, params.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Map each position independently: [..., d_model] to [..., d_model]."""
        inner = self.to_inner(x)
        if self.is_gated:
            value, gate = inner.chunk(2, dim=-1)
            inner = value * self.activation(gate)
        else:
            inner = self.activation(inner)
        out: Tensor = self.to_out(self.dropout(inner))
        return out
