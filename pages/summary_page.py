"""HTML page of a model's summary: its parts and their cost, noise schedule, attention cost over length."""

from collections.abc import Iterator
from typing import Any

from experiment.attention_cost import cost_over_length
from experiment.config import ExperimentConfig
from experiment.noise_curves import noise_curves
from experiment.summary import NOTE, Summary
from model.types import PerformerParams
from pages.document import Section, render_page
from pages.plots import plot_bars, plot_lines
from yaml_config.dump import dump


def render_summary_page(config: ExperimentConfig, summary: Summary) -> str:
    """Render the page of an experiment; `summary` is the result of `experiment.summary.summarise`."""
    assert config.model is not None
    facts = [
        ("model type", config.model.model_type),
        ("parameters", f"{summary.total.parameters:,}"),
        ("counted with", summary.input_text),
    ]
    sections = [
        Section(
            "Structure",
            NOTE,
            summary.rows(),
            blocks=[crossover.text(summary.length) for crossover in summary.crossovers],
        ),
        Section("Parameters by part", svg=_bars(summary, "parameters", 1e6, "million parameters")),
        Section(
            "Memory by part",
            "float32; activations, which depend on the length, are not counted.",
            svg=_memory(summary),
        ),
        Section("FLOPs of a forward pass by part", svg=_bars(summary, "forward_flops", 1e9, "GFLOP a batch")),
        *_noise(config),
        *_attention(config.model.config, summary.length),
        Section(
            "Configuration of the model",
            "The section of the file, with all defaults.",
            blocks=[dump({"model": config.model.to_section()})],
        ),
    ]
    return render_page(f"{summary.name}: parts and cost of the model", facts, sections)


def _names(summary: Summary) -> list[str]:
    return [part.name or "model" for part in summary.parts]


def _bars(summary: Summary, attribute: str, unit: float, label: str) -> str:
    return plot_bars({label: [getattr(part, attribute) / unit for part in summary.parts]}, _names(summary), label)


def _memory(summary: Summary) -> str:
    mib = [part.weights_bytes / 2**20 for part in summary.parts]
    kinds = {"weights": mib, "gradients": mib, "Adam's two moments": [2 * size for size in mib]}
    return plot_bars(kinds, _names(summary), "MiB")


def _noise(config: ExperimentConfig) -> Iterator[Section]:
    if curves := noise_curves(config):
        text = "Share of the data that is left at time t. At t = 0 nothing is lost; sampling starts at t = 1."
        yield Section("Noise schedule", text, svg=plot_lines(curves, "t", "share"))


def _attention(section: Any, length: int) -> Iterator[Section]:
    for key, params in dict(section).items():
        if isinstance(params, PerformerParams):
            name = "" if key == "params" else f" of {key.removesuffix('_params')}"
            used = " and ".join(dict.fromkeys(params.attention_types))
            text = (
                f"The file uses {used}. Computed by formula for one sequence, all layers, bidirectional; products with a "
                "causal mask are counted in full, as in the terminal's summary."
            )
            svg = plot_lines(
                cost_over_length(params), "tokens", "GFLOP", log=True, marks={f"this file, {length:,}": length}
            )
            yield Section(f"Attention cost over length{name}", text, svg=svg)
