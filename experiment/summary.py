"""Parameters, memory and FLOPs of a model, part by part, without allocating its weights.

The model is built of fake tensors, which have shapes and no storage; its forward and backward pass are counted by
`torch.utils.flop_counter`, which counts matrix products (attention included) and nothing else.
"""

from dataclasses import dataclass
from typing import Any

from experiment.config import ExperimentConfig
from experiment.inputs import example_inputs
from experiment.vocabulary import with_vocabulary
from model.model_types import ModelConfig
from model.types import PerformerParams

BYTES = 4
ADAM_COPIES = 4
"""Training with Adam keeps weights, gradients and two moments."""


@dataclass(frozen=True)
class Part:
    """Counts of one part; FLOPs are those of one batch."""

    name: str
    parameters: int
    forward_flops: int
    training_flops: int

    @property
    def weights_bytes(self) -> int:
        """Weights in float32."""
        return BYTES * self.parameters

    @property
    def training_bytes(self) -> int:
        """Weights, gradients and Adam's moments in float32, activations not counted."""
        return ADAM_COPIES * BYTES * self.parameters


@dataclass(frozen=True)
class Summary:
    """Parts of a model, and the input that the FLOPs were counted with."""

    name: str
    parts: list[Part]
    total: Part
    input_text: str

    def as_dict(self) -> dict[str, Any]:
        """Plain form for `--json`."""
        rows = [
            vars(part) | {"weights_bytes": part.weights_bytes, "training_bytes": part.training_bytes}
            for part in (*self.parts, self.total)
        ]
        return {"model": self.name, "input": self.input_text, "parts": rows[:-1], "total": rows[-1]}

    def table(self) -> str:
        """A table for the terminal."""
        head = ("part", "parameters", "weights", "training*", "forward", "fwd+bwd")
        rows = [head, *(_cells(part) for part in (*self.parts, self.total))]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        lines = [
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        rule = "-" * len(lines[0])
        note = "* weights, gradients and Adam's moments in float32; FLOPs are matrix products of one batch"
        title = f"{self.name}, {self.input_text}"
        return "\n".join([title, lines[0], rule, *lines[1:-1], rule, lines[-1], note])


def summarise(config: ExperimentConfig) -> Summary:
    """Count the model of an experiment; raises ValueError where the file has none or the model cannot be built."""
    if config.model is None:
        raise ValueError("--summary needs a section 'model'")
    config = with_vocabulary(config)
    assert config.model is not None
    model_config = _on_cpu(config.model)
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    from model.model_factory import create_model

    with FakeTensorMode(allow_non_fake_inputs=True):
        model = create_model(model_config)
        inputs = example_inputs(config)
        with FlopCounterMode(display=False) as forward:
            output = model(*inputs.tensors)
        with FlopCounterMode(display=False) as training:
            _scalar(model(*inputs.tensors)).backward()
        del output
    counts = {name: sum(flops.values()) for name, flops in forward.get_flop_counts().items()}
    both = {name: sum(flops.values()) for name, flops in training.get_flop_counts().items()}
    root = type(model).__name__
    parts = [
        Part(name, sizes, _below(counts, root, modules), _below(both, root, modules))
        for name, (sizes, modules) in _group(model).items()
    ]
    total = Part(
        "total", sum(p.numel() for p in model.parameters()), forward.get_total_flops(), training.get_total_flops()
    )
    return Summary(config.model.name, parts, total, inputs.text)


def _on_cpu(config: ModelConfig) -> ModelConfig:
    """The config with every part on the CPU: a summary needs no accelerator."""
    moved = {
        name: value.model_copy(update={"device": "cpu"})
        for name, value in dict(config.config).items()
        if isinstance(value, PerformerParams)
    }
    return config.model_copy(update={"config": config.config.model_copy(update=moved)})


def _scalar(output: Any) -> Any:
    """One number to differentiate: a loss if the model gives one, else the sum of its output."""
    loss = getattr(output, "loss", None)
    return loss if loss is not None else output.float().sum()


def _group(model: Any) -> dict[str, tuple[int, list[str]]]:
    """Parts to (parameters, module names): a stack's layers are taken together, by what they consist of."""
    groups: dict[str, tuple[int, list[str]]] = {}
    for name, module in model.named_modules():
        own = sum(p.numel() for p in module.parameters(recurse=False))
        label = _label(name)
        size, modules = groups.get(label, (0, []))
        groups[label] = (size + own, [*modules, name] if _is_part_root(name, label) else modules)
    return {label: group for label, group in groups.items() if group[0] or group[1]}


def _label(name: str) -> str:
    """`decoder.layers.3.feed_forward.fn.up` as `decoder.feed_forward`: no layer numbers, no inner modules."""
    keys = name.split(".")
    if "layers" in keys:
        at = keys.index("layers")
        return ".".join([*keys[:at], *keys[at + 2 : at + 3]]) or "layers"
    depth = 2 if keys[0] in ("encoder", "decoder") else 1
    return ".".join(keys[:depth])


def _is_part_root(name: str, label: str) -> bool:
    keys = name.split(".")
    return len(keys) == len(label.split(".")) + (2 if "layers" in keys else 0)


def _below(counts: dict[str, int], root: str, modules: list[str]) -> int:
    return sum(counts.get(f"{root}.{name}", 0) for name in modules)


def _cells(part: Part) -> tuple[str, ...]:
    return (
        part.name or "model",
        f"{part.parameters:,}",
        _scaled(part.weights_bytes, 1024, ("B", "KiB", "MiB", "GiB", "TiB")),
        _scaled(part.training_bytes, 1024, ("B", "KiB", "MiB", "GiB", "TiB")),
        _scaled(part.forward_flops, 1000, ("", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP")),
        _scaled(part.training_flops, 1000, ("", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP")),
    )


def _scaled(number: float, step: int, units: tuple[str, ...]) -> str:
    for unit in units[:-1]:
        if number < step:
            return f"{number:.3g} {unit}".strip()
        number /= step
    return f"{number:.4g} {units[-1]}"
