"""Registry of metrics: built-in names, custom ones, and entry points."""

import subprocess
import sys
from pathlib import Path

import pytest

from model_factory.evaluation.figure import Figure, Report
from model_factory.experiment.metric_registry import METRICS, metrics_of, register_metric
from model_factory.experiment.task_registry import TASKS

ROOT = Path(__file__).resolve().parents[2]
BUILT_IN = {
    "language_modelling",
    "diffusion",
    "latent_diffusion",
    "translation",
    "sequence_classification",
    "speech_recognition",
    "diarization",
}


def test_every_built_in_task_has_metrics():
    assert set(METRICS) >= BUILT_IN
    assert set(TASKS) >= BUILT_IN
    for task in BUILT_IN:
        assert metrics_of(task).__module__.startswith("model_factory.evaluation.")


def test_registry_imports_nothing_else_of_evaluation():
    check = "import sys, model_factory.experiment.metric_registry as r\n"
    check += "own = {name for name in sys.modules if name.startswith('model_factory.evaluation.')} - {'model_factory.experiment.metric_registry'}\n"
    check += "assert not own, own\nassert 'torch' not in sys.modules\n"
    check += "assert 'diffusion' in r.METRICS\nassert 'model_factory.evaluation.metrics.bound' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=False).returncode == 0


def test_register_metric_adds_a_custom_task(monkeypatch):
    monkeypatch.setattr(METRICS, "_entries", dict(METRICS._entries))

    @register_metric("counting")
    def count(run, split, settings):
        return Report([Figure("rows", 3, 3, 3, 3, "rows", settings.seed, "none")])

    assert metrics_of("counting") is count
    with pytest.raises(ValueError, match="metric 'counting' is already registered"):
        register_metric("counting")(count)


def test_unregistered_tasks_are_measured_by_their_own_metrics():
    assert metrics_of("a custom task").__module__ == "model_factory.evaluation.metrics.supervised"


def test_metrics_are_found_by_entry_point(tmp_path, monkeypatch):
    monkeypatch.setattr(METRICS, "_entries", dict(METRICS._entries))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "counting_metric.py").write_text(
        "from model_factory.experiment.metric_registry import register_metric\n\n\n"
        "@register_metric('counted')\ndef count(run, split, settings):\n    return 'found'\n"
    )
    (tmp_path / "counting-1.dist-info").mkdir()
    (tmp_path / "counting-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: counting\nVersion: 1\n")
    (tmp_path / "counting-1.dist-info/entry_points.txt").write_text(
        "[model_factory.metrics]\ncounted = counting_metric\n"
    )
    assert metrics_of("counted")(None, None, None) == "found"
