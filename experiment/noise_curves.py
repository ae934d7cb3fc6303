"""Noise of a diffusion model over time, as curves to plot."""

from typing import Any

from experiment.config import ExperimentConfig

Curve = tuple[list[float], list[float]]
_POINTS = 201


def noise_curves(config: ExperimentConfig) -> dict[str, Curve]:
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

    from diffusion.registry import PROCESSES, SCHEDULES

    graph = PROCESSES.get(section.process.type).build(section.process, 2)
    _, schedule = graph.at_pace(SCHEDULES.get(section.schedule.type).build(section.schedule))
    t = torch.linspace(0, 1, _POINTS, dtype=torch.float64)
    alpha = schedule.alpha(t)
    return {"untouched, alpha(t)": (t.tolist(), alpha.tolist()), "noised": (t.tolist(), (1 - alpha).tolist())}


def _latent(section: Any) -> dict[str, Curve]:
    from model.latent.ddpm import ddpm_schedule

    gaussian = section.diffusion
    beta1, beta2 = gaussian.betas
    tables = ddpm_schedule(beta1, beta2, gaussian.num_steps, kind=gaussian.schedule, compat=section.compat)
    kept = tables["alphabar_t"].double()
    t = [step / (len(kept) - 1) for step in range(len(kept))]
    return {"signal, alphabar(t)": (t, kept.tolist()), "noise": (t, (1 - kept).tolist())}
