"""Names of the feed-forward activations. The gated ones (GLU variants) are from Shazeer 2020, arXiv 2002.05202."""

from enum import StrEnum


class ActivationFunctions(StrEnum):
    """Activation of the feed-forward layer; a name in any case is accepted: `ActivationFunctions("gelu")`."""

    GELU = "GELU"
    GELU_TANH = "GELU_TANH"
    """GELU by its approximation with tanh, as in GPT-2 (Hendrycks and Gimpel 2016, arXiv 1606.08415)."""
    RELU = "RELU"
    SILU = "SILU"
    GEGLU = "GEGLU"
    REGLU = "REGLU"
    SWIGLU = "SWIGLU"

    @classmethod
    def _missing_(cls, value: object) -> "ActivationFunctions | None":
        return cls.__members__.get(value.upper()) if isinstance(value, str) else None

    @property
    def is_gated(self) -> bool:
        """True for the GLU variants, whose first projection is split into a value and a gate."""
        return self.name.endswith("GLU")
