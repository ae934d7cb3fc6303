"""Below which length softmax is the faster kind of attention, from measurements on two CPU cores; no torch.

`python -m benchmarks.crossover` made `MEASURED` and prints it anew.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import log

from experiment.config import ExperimentConfig
from model.core_registry import first_of_direction
from model.types import PerformerParams, default_features

MEASURED: dict[tuple[int, bool], tuple[int, int]] = {
    (32, False): (747, 520),
    (32, True): (1313, 1117),
    (64, False): (822, 626),
    (64, True): (1819, 1561),
    (128, False): (1530, 1316),
    (128, True): (3714, 3438),
}
"""Head's width and whether causal, to tokens at which the times forward and forward + backward cross.

Of 8 heads in float32 with D ln D features, as many as a file gets that does not say.
"""


@dataclass(frozen=True)
class Crossover:
    """Below these lengths softmax is the faster in a stack; from them on, linear attention."""

    part: str
    """encoder, decoder or backbone."""
    attention: str
    """What the file has there."""
    forward: int
    training: int

    def text(self, length: int) -> str:
        """In words, for a file of sequences of this length."""
        below = (length < self.forward) + (length < self.training)
        faster = ("linear is the faster", "the two are about as fast", "softmax is the faster")[below]
        return (
            f"{self.part} ({self.attention} attention): softmax is faster than linear attention up to about "
            f"{self.forward:,} tokens\n  forward and {self.training:,} in training on two CPU cores; "
            f"at this file's {length:,}, {faster}"
        )


def crossovers(config: ExperimentConfig) -> Iterator[Crossover]:
    """One for each stack whose attention may be either kind."""
    if config.model is None:
        return
    section = config.model.config
    for name, params in dict(section).items():
        if isinstance(params, PerformerParams):
            part = config.model.model_type if name == "params" else name.removesuffix("_params")
            yield crossover(part, params, is_decoder=part == "decoder")


def crossover(part: str, params: PerformerParams, *, is_decoder: bool) -> Crossover:
    """Of one stack: the nearest width that was measured, in proportion to the features of a token."""
    causal = is_decoder or first_of_direction(params, "causal") is not None
    near = min((width for width, _ in MEASURED), key=lambda width: abs(log(width / params.head_dim)))
    features = params.nb_features or default_features(params.head_dim)
    share = (params.head_dim if params.feature_map == "elu" else features) / default_features(near)
    forward, training = (_rounded(tokens * share) for tokens in MEASURED[near, causal])
    return Crossover(part, " and ".join(dict.fromkeys(params.attention_types)), forward, training)


def _rounded(tokens: float) -> int:
    """To two digits: a measurement on another machine would not agree in a third."""
    return int(float(f"{tokens:.2g}"))
