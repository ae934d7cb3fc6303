"""Process `zipf`: noise tokens are drawn by Zipf's law, so that tokens of small ids are more frequent."""

from typing import Annotated, Any

from pydantic import Field

from model_factory import StrictModel, register_process


class ZipfConfig(StrictModel):
    """Keys of `process: {type: zipf, ...}`."""

    exponent: Annotated[float, Field(ge=0, le=4)] = 1.0
    """Token k is drawn with a probability in proportion to (k + 1)^-exponent; 0 is uniform noise. [1]"""


@register_process("zipf", config=ZipfConfig)
def build(config: Any, num_tokens: int) -> Any:
    """Build the process over `num_tokens` tokens."""
    import torch

    from model_factory import Graph

    ranks = torch.arange(1, num_tokens + 1, dtype=torch.float64)
    return Graph(num_tokens, ranks**-config.exponent)
