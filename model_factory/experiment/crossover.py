"""Sequence length below which softmax attention is faster than linear, measured on two CPU cores; no torch is imported.

`python -m benchmarks.crossover` measured `MEASURED` and prints it again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import log

from model.core_registry import first_of_direction
from model.types import PerformerParams, default_features
from model_factory.experiment.config import ExperimentConfig

MEASURED: dict[tuple[int, bool], tuple[int, int]] = {
    (32, False): (747, 520),
    (32, True): (1313, 1117),
    (64, False): (822, 626),
    (64, True): (1819, 1561),
    (128, False): (1530, 1316),
    (128, True): (3714, 3438),
}
"""(Width of a head, causal) to the lengths in tokens at which forward and forward + backward times cross.

Measured with 8 heads in float32 and D ln D features, the default number.
"""


@dataclass(frozen=True)
class Crossover:
    """Lengths of a stack below which softmax is faster, and from which linear attention is."""

    part: str
    """encoder, decoder or backbone."""
    attention: str
    """Attention types of the file."""
    forward: int
    training: int

    def text(self, length: int) -> str:
        """Describe the crossover for sequences of this length."""
        below = (length < self.forward) + (length < self.training)
        faster = ("linear is the faster", "the two are about as fast", "softmax is the faster")[below]
        return (
            f"{self.part} ({self.attention} attention): softmax is faster than linear attention up to about "
            f"{self.forward:,} tokens\n  forward and {self.training:,} in training on two CPU cores; "
            f"at this file's {length:,}, {faster}"
        )


def find_crossovers(config: ExperimentConfig) -> Iterator[Crossover]:
    """Yield the crossover of each stack whose attention may be either kind."""
    if config.model is None:
        return
    section = config.model.config
    for name, params in dict(section).items():
        if isinstance(params, PerformerParams):
            part = config.model.model_type if name == "params" else name.removesuffix("_params")
            yield crossover(part, params, is_decoder=part == "decoder")


def crossover(part: str, params: PerformerParams, *, is_decoder: bool) -> Crossover:
    """Return the crossover of a stack: that of the nearest measured width, scaled by the features of a token."""
    causal = is_decoder or first_of_direction(params, "causal") is not None
    near = min((width for width, _ in MEASURED), key=lambda width: abs(log(width / params.head_dim)))
    features = params.nb_features or default_features(params.head_dim)
    share = (params.head_dim if params.feature_map == "elu" else features) / default_features(near)
    forward, training = (_rounded(tokens * share) for tokens in MEASURED[near, causal])
    return Crossover(part, " and ".join(dict.fromkeys(params.attention_types)), forward, training)


def _rounded(tokens: float) -> int:
    """Round to two digits, since a measurement on another machine would differ in the third."""
    return int(float(f"{tokens:.2g}"))


# Cost of attention by sequence length, from formulas; no torch is imported.


LENGTHS = [2**power for power in range(6, 18)]


def core_flops(params: PerformerParams, length: int, *, linear: bool) -> int:
    """Return the FLOPs of all layers' attention cores for one sequence."""
    if not linear:
        return params.num_layers * 4 * length**2 * params.d_model
    features = params.nb_features or default_features(params.head_dim)
    mapped, width = (0, params.head_dim) if params.feature_map == "elu" else (features, features)
    token = 4 * params.head_dim * mapped + 4 * params.head_dim * width + 4 * width  # the last term: the normaliser
    return params.num_layers * params.num_heads * length * token


def cost_over_length(params: PerformerParams) -> dict[str, tuple[list[float], list[float]]]:
    """Return the GFLOPs of softmax and of linear attention by length."""
    lengths = [float(length) for length in LENGTHS]
    return {
        name: (lengths, [core_flops(params, length, linear=linear) / 1e9 for length in LENGTHS])
        for name, linear in (("softmax", False), ("linear", True))
    }
