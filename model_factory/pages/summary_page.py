"""HTML page of a model's summary: its parts and their cost, noise schedule, attention cost over length."""

from collections.abc import Iterator
from typing import Any

from model.latent.ddpm import ddpm_schedule
from model.types import PerformerParams
from model_factory.diffusion.registry import PROCESSES, SCHEDULES
from model_factory.experiment.config import ExperimentConfig
from model_factory.experiment.crossover import cost_over_length
from model_factory.experiment.summary import NOTE, Summary
from model_factory.pages.document import Section, render_page
from model_factory.pages.plots import plot_bars, plot_lines
from model_factory.yaml_config.dump import dump

# Noise of a diffusion model over time, as curves to plot.


Curve = tuple[list[float], list[float]]


_POINTS = 201


def compute_noise_curves(config: ExperimentConfig) -> dict[str, Curve]:
    """Return named curves over t in [0, 1]; empty for a model without diffusion.

    Discrete: the shares of unchanged tokens (alpha) and of noised ones. Latent: the shares of the variance that are signal
    (alpha-bar) and noise.
    """
    if config.model is None:
        return {}
    section: Any = config.model.config
    if config.model.model_type == "diffusion":
        return _discrete(section)
    return _latent(section) if config.model.model_type == "latent_diffusion" else {}


def _discrete(section: Any) -> dict[str, Curve]:
    import torch

    graph = PROCESSES.get(section.process.type).build(section.process, 2)
    _, schedule = graph.at_pace(SCHEDULES.get(section.schedule.type).build(section.schedule))
    t = torch.linspace(0, 1, _POINTS, dtype=torch.float64)
    alpha = schedule.alpha(t)
    return {"untouched, alpha(t)": (t.tolist(), alpha.tolist()), "noised": (t.tolist(), (1 - alpha).tolist())}


def _latent(section: Any) -> dict[str, Curve]:
    gaussian = section.diffusion
    beta1, beta2 = gaussian.betas
    tables = ddpm_schedule(beta1, beta2, gaussian.num_steps, kind=gaussian.schedule, compat=section.compat)
    kept = tables["alphabar_t"].double()
    t = [step / (len(kept) - 1) for step in range(len(kept))]
    return {"signal, alphabar(t)": (t, kept.tolist()), "noise": (t, (1 - kept).tolist())}


def render_summary_page(config: ExperimentConfig, summary: Summary) -> str:
    """Render the page of an experiment; `summary` is the result of `model_factory.experiment.summary.summarise_model`."""
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
    return [part.title for part in summary.parts]


def _bars(summary: Summary, attribute: str, unit: float, label: str) -> str:
    return plot_bars({label: [getattr(part, attribute) / unit for part in summary.parts]}, _names(summary), label)


def _memory(summary: Summary) -> str:
    mib = [part.weights_bytes / 2**20 for part in summary.parts]
    kinds = {"weights": mib, "gradients": mib, "Adam's two moments": [2 * size for size in mib]}
    return plot_bars(kinds, _names(summary), "MiB")


def _noise(config: ExperimentConfig) -> Iterator[Section]:
    if curves := compute_noise_curves(config):
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
