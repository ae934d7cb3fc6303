"""Registry of metrics: which function measures a run of a task; no torch is imported.

A custom task's metrics are a function under `@register_metric("task_name")`, found with `--plugin MODULE` or through the
entry point group `model_factory.metrics`.
"""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, TypeVar

from model_factory.yaml_config.registry import Registry

if TYPE_CHECKING:
    from model_factory.evaluation.figure import Report
    from model_factory.evaluation.rows import Split
    from model_factory.evaluation.run import LoadedRun
    from model_factory.evaluation.settings import Settings

Metric = Callable[["LoadedRun", "Split", "Settings"], "Report"]
MetricFunction = TypeVar("MetricFunction", bound=Metric)
METRICS: Registry[Metric] = Registry("metric", "model_factory.metrics")
"""Metrics by the names of tasks; a task without an entry is measured by its own loss and metrics."""


def register_metric(task: str) -> Callable[[MetricFunction], MetricFunction]:
    """Register the decorated function as the metrics of `task`; raises ValueError when the name is taken."""
    return METRICS.decorator(task, lambda function: function)


def metrics_of(task: str) -> Metric:
    """Return the function that measures a run of a task, by default `measure_own_metrics` of the task's own metrics."""
    if task in METRICS:
        return METRICS.get(task)
    default: Metric = import_module(_DEFAULT).measure_own_metrics
    return default


_DEFAULT = "model_factory.evaluation.metrics.supervised"
METRICS.add_lazy("language_modelling", "model_factory.evaluation.metrics.supervised")
METRICS.add_lazy("diffusion", "model_factory.evaluation.metrics.bound")
METRICS.add_lazy("conditional_diffusion", "model_factory.evaluation.metrics.conditional")
METRICS.add_lazy("latent_diffusion", "model_factory.evaluation.metrics.latent")
METRICS.add_lazy("translation", "model_factory.evaluation.metrics.translation")
METRICS.add_lazy("sequence_classification", "model_factory.evaluation.metrics.supervised")
METRICS.add_lazy("speech_recognition", "model_factory.evaluation.metrics.supervised")
METRICS.add_lazy("diarization", "model_factory.evaluation.metrics.supervised")
