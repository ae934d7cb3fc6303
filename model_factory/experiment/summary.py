"""Count parameters, memory and FLOPs of a model, part by part, without allocating its weights.

The model is built of fake tensors, which have shapes but no storage; its forward and backward passes are counted by
`torch.utils.flop_counter`, which counts matrix products (attention included) and nothing else.
"""

from dataclasses import dataclass
from typing import Any

from model.model_factory import create_model
from model_factory.experiment.build import with_vocabulary
from model_factory.experiment.config import ExperimentConfig
from model_factory.experiment.crossover import Crossover, find_crossovers
from model_factory.experiment.inputs import example_inputs

BYTES = 4
FLOPS = ("", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP")
MEMORY = ("B", "KiB", "MiB", "GiB", "TiB")
HEAD = ("part", "parameters", "weights", "training*", "forward", "fwd+bwd")
NOTE = "* weights, gradients and Adam's moments in float32; FLOPs are matrix products of one batch"
TITLES = {
    "told": "time and condition embedding",
    "local": "local convolution",
    "input": "input embedding",
    "embedding": "token embedding",
    "self_attention": "self-attention",
    "cross_attention": "cross-attention",
    "norm_attention": "norm before attention",
    "feed_forward": "feed-forward",
    "norm_feed_forward": "norm before feed-forward",
    "modulation": "scale and shift by time",
    "final_modulation": "final scale and shift by time",
    "head": "output head",
    "head (tied)": "output head, tied to the embedding",
    "lm_head": "output head",
}
"""Titles of modules whose names in the code need one; `_` of other names becomes a space."""
ADAM_COPIES = 4
"""Copies that training with Adam keeps: weights, gradients and two moments."""


@dataclass(frozen=True)
class Part:
    """Counts of one part; FLOPs are for one batch.

    Backward is counted for the whole model only, since autograd does not attribute products to modules.
    """

    name: str
    parameters: int
    forward_flops: int
    training_flops: int | None = None

    @property
    def title(self) -> str:
        """Return the name in words, such as `decoder: self-attention` for `decoder.self_attention`."""
        return ": ".join(TITLES.get(key, key.replace("_", " ")) for key in self.name.split(".")) or "model"

    @property
    def weights_bytes(self) -> int:
        """Return the size of the weights in float32."""
        return BYTES * self.parameters

    @property
    def training_bytes(self) -> int:
        """Return the size of weights, gradients and Adam's moments in float32, without activations."""
        return ADAM_COPIES * BYTES * self.parameters


@dataclass(frozen=True)
class Summary:
    """Parts of a model, and the input for which FLOPs were counted."""

    name: str
    parts: list[Part]
    total: Part
    input_text: str
    length: int
    """Tokens of a sequence."""
    crossovers: list[Crossover]
    """Crossovers of the stacks that take both softmax and linear attention."""

    def as_dict(self) -> dict[str, Any]:
        """Return the plain form for `--json`."""
        rows = [
            vars(part) | {"weights_bytes": part.weights_bytes, "training_bytes": part.training_bytes}
            for part in (*self.parts, self.total)
        ]
        faster_below = [vars(crossover) for crossover in self.crossovers]
        counts = {"parts": rows[:-1], "total": rows[-1], "softmax_faster_below": faster_below}
        return {"model": self.name, "input": self.input_text, "length": self.length, **counts}

    def rows(self) -> list[tuple[str, ...]]:
        """Return the cells of a table, its header first."""
        return [HEAD, *(_cells(part) for part in (*self.parts, self.total))]

    def table(self) -> str:
        """Format the table for the terminal."""
        rows = self.rows()
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
            for row in rows
        ]
        rule = "-" * len(lines[0])
        body = [f"{self.name}, {self.input_text}", lines[0], rule, *lines[1:-1], rule, lines[-1], NOTE]
        return "\n".join([*body, *(crossover.text(self.length) for crossover in self.crossovers)])


def summarise_model(config: ExperimentConfig) -> Summary:
    """Count the model of an experiment; raises ValueError if it is missing or cannot be built."""
    if config.model is None:
        raise ValueError("--summary needs a section 'model'")
    config = with_vocabulary(config)
    assert config.model is not None
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    from model.checkpoint import with_device

    model_config = with_device(config.model, "cpu")  # a summary needs no accelerator
    formulas = _attention_formulas()
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = create_model(model_config)
        inputs = example_inputs(config, model=model)
        with FlopCounterMode(display=False, custom_mapping=formulas) as forward:
            inputs.run(model)
        with FlopCounterMode(display=False, custom_mapping=formulas) as training:
            inputs.run(model).float().sum().backward()
    total = Part(
        "total",
        sum(p.numel() for p in model.parameters()),
        forward.get_total_flops(),
        training.get_total_flops(),
    )
    counted = getattr(model, "network", model)  # of a diffusion model the network alone was run
    parts = _parts(counted, {name: sum(flops.values()) for name, flops in forward.get_flop_counts().items()})
    kinds = list(find_crossovers(config))
    return Summary(config.model.name, _with_rest(parts, total), total, inputs.text, inputs.length, kinds)


def _attention_formulas() -> dict[Any, Any]:
    """Return FLOP formulas for the CPU's fused softmax attention, which torch's counter leaves out."""
    import torch
    from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count

    aten = torch.ops.aten
    return {
        aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),  # type: ignore[no-untyped-call]
        aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: (
            sdpa_backward_flop_count(g, q, k, v)  # type: ignore[no-untyped-call]
        ),
    }


def _parts(model: Any, flops: dict[str, int]) -> list[Part]:
    """Return parts in the order of the model; layers of a stack are summed by the kind of their modules."""
    sizes: dict[str, int] = {}
    forward: dict[str, int] = {}
    seen: set[int] = set()  # tied weights count once, at their first module, as in the total
    for name, module in model.named_modules():
        label = _label(name)
        own = {id(p): p.numel() for p in module.parameters(recurse=False) if id(p) not in seen}
        seen |= own.keys()
        sizes[label] = sizes.get(label, 0) + sum(own.values())
        if _is_part(name, label):
            forward[label] = forward.get(label, 0) + flops.get(f"{type(model).__name__}.{name}", 0)
    shown = [label for label, size in sizes.items() if size or (forward.get(label) and not _inner(label, forward))]
    return [Part(label, sizes[label], _own(label, forward)) for label in shown]


def _own(label: str, forward: dict[str, int]) -> int:
    """Return the FLOPs of a part without those of the parts inside it, which have their own rows.

    A part that runs by another method than `forward` has none.
    """
    inner = _inner(label, forward)
    direct = [other for other in inner if not any(other.startswith(f"{between}.") for between in inner)]
    return max(0, forward.get(label, 0) - sum(forward[other] for other in direct))


def _inner(label: str, forward: dict[str, int]) -> list[str]:
    """Return the parts inside this one."""
    return [other for other in forward if other.startswith(f"{label}.")]


def _with_rest(parts: list[Part], total: Part) -> list[Part]:
    """Add a row for FLOPs outside all parts: those of a head that is tied to the embedding."""
    rest = total.forward_flops - sum(part.forward_flops for part in parts)
    return [*parts, Part("head (tied)", 0, rest)] if rest > 0 else parts


def _label(name: str) -> str:
    """Shorten `decoder.layers.3.feed_forward.fn.up` to `decoder.feed_forward`."""
    keys = name.split(".")
    if "layers" in keys:
        at = keys.index("layers")
        return ".".join([*keys[:at], *keys[at + 2 : at + 3]]) or "layers"
    depth = 2 if keys[0] in ("encoder", "decoder") else 1
    return ".".join(keys[:depth])


def _is_part(name: str, label: str) -> bool:
    """Return True for the module that a part is counted at, False for modules inside it."""
    keys = name.split(".")
    return len(keys) == (keys.index("layers") + 3 if "layers" in keys else len(label.split(".")))


def _cells(part: Part) -> tuple[str, ...]:
    return (
        part.title,
        f"{part.parameters:,}",
        _scaled(part.weights_bytes, 1024, MEMORY),
        _scaled(part.training_bytes, 1024, MEMORY),
        _scaled(part.forward_flops, 1000, FLOPS),
        "" if part.training_flops is None else _scaled(part.training_flops, 1000, FLOPS),
    )


def _scaled(number: float, step: int, units: tuple[str, ...]) -> str:
    for unit in units[:-1]:
        if number < step:
            return f"{number:.{3 if number < 999.5 else 4}g} {unit}".strip()  # never 1e+03
        number /= step
    return f"{number:.4g} {units[-1]}"
