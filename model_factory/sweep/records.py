"""Read a run folder for a table over runs: config, metrics, parameters, speed and state. No weights are loaded."""

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_factory.experiment.config import ExperimentConfig
from model_factory.training.errors import RunFolderError
from model_factory.training.run.checkpoints import checkpoint_folder, list_checkpoint_steps, read_json
from model_factory.training.run.environment import read_sessions
from model_factory.training.run.folder import RunFolder
from model_factory.training.run.logs import MetricsLog
from model_factory.training.run.weights import WEIGHTS

BEST = "best eval_loss"
_HIGHER = {"accuracy", "bleu", "chrf", "exact", "mauve", "reconstruction_bleu", "validity", "uniqueness", "novelty"}
_LOWER = ("loss", "perplexity", "cross_entropy", "error", "wer", "cer", "der", "kl", "distance", "bits_per", "nll")
_MAX_HEADER = 2**28
"""Largest header of a weights file that is read. [bytes]"""


def is_higher_better(metric: str) -> bool | None:
    """Return True for an accuracy, False for a loss or an error, None where the name does not tell."""
    name = metric.lower().removeprefix("best ").removeprefix("eval_")
    if name in _HIGHER:
        return True
    words = f"_{name.replace(' ', '_')}_"
    return False if any(f"_{word}" in words for word in _LOWER) else None


@dataclass(frozen=True)
class RunRecord:
    """Facts about one run.

    `values` is its config with a dotted key for each leaf; `metrics` the values of the last evaluation, `BEST` and the
    figures of an evaluation report; `entries` the lines of metrics.jsonl. Speeds are medians over the log, `seconds` the
    time between the first and the last step, with evaluations, of all sessions. None is what the run does not say.
    """

    folder: Path
    values: dict[str, Any]
    state: str
    is_finished: bool
    step: int
    max_steps: int
    metrics: dict[str, float]
    entries: list[dict[str, Any]]
    parameters: int | None
    steps_per_second: float | None
    tokens_per_second: float | None
    seconds: float | None

    @property
    def seed(self) -> int | None:
        """Return `training.seed`."""
        seed = self.values.get("training.seed")
        return seed if isinstance(seed, int) else None

    def objective(self, metric: str) -> float | None:
        """Return a metric of the weights that the run saves: of its best evaluation with load_best_model_at_end."""
        found = [entry for entry in self.entries if _is_number(entry.get(metric))]
        if found and self.values.get("training.load_best_model_at_end") and all("eval_loss" in e for e in found):
            return float(min(found, key=lambda entry: float(entry["eval_loss"]))[metric])
        return self.metrics.get(metric)


def read_run(folder: Path) -> RunRecord:
    """Read a run folder, finished or not; raise RunFolderError where the folder is no run, or one of its files is damaged."""
    if not folder.is_dir():
        raise RunFolderError(f"{folder} is {'a file' if folder.exists() else 'not there'}; give the folder of a run")
    run = RunFolder(folder)
    config = run.read_config()
    entries = MetricsLog(run.metrics).read()
    sessions = [session for session in read_sessions(run.environment) if isinstance(session, dict)]
    max_steps = config.training.max_steps if config.training else 0
    step = max([entry["step"] for entry in entries] + list_checkpoint_steps(folder), default=0)
    speeds = [float(entry["steps_per_second"]) for entry in entries if _is_positive(entry.get("steps_per_second"))]
    speed = statistics.median(speeds) if speeds else None
    return RunRecord(
        folder=folder,
        values=dict(flatten(config.to_dict())),
        state=_describe_state(run, step, max_steps),
        is_finished=run.is_finished,
        step=step,
        max_steps=max_steps,
        metrics=_last_metrics(entries) | _read_reports(folder),
        entries=entries,
        parameters=_count_parameters(run, sessions),
        steps_per_second=speed,
        tokens_per_second=_tokens_per_second(config, entries, speed, sessions),
        seconds=_seconds(entries, sessions),
    )


def flatten(tree: object, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) for each leaf of mappings and lists."""
    if isinstance(tree, Mapping | list) and tree:
        parts = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
        for key, value in parts:
            yield from flatten(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, tree


def _describe_state(run: RunFolder, step: int, max_steps: int) -> str:
    if run.is_finished:
        return "finished" if step >= max_steps or not step else f"stopped early at {step:,} of {max_steps:,}"
    return f"interrupted at {step:,} of {max_steps:,}" if step else "interrupted before the first log"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and _is_number(value) and value > 0


def _last_metrics(entries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the metrics of the last evaluation, the least eval_loss, and the last training loss without evaluations."""
    found: dict[str, float] = {}
    for entry in entries:
        found |= {key: float(value) for key, value in entry.items() if key.startswith("eval_") and _is_number(value)}
    losses = [float(entry["eval_loss"]) for entry in entries if _is_number(entry.get("eval_loss"))]
    if losses:
        found = {"eval_loss": found.pop("eval_loss"), BEST: min(losses), **found}
    elif trained := [float(entry["loss"]) for entry in entries if _is_number(entry.get("loss"))]:
        found["loss"] = trained[-1]
    return found


def _read_reports(folder: Path) -> dict[str, float]:
    """Return the figures of `evaluate --json` reports, which a user wrote to `evaluation*.json` in the run folder."""
    found: dict[str, float] = {}
    for path in sorted(folder.glob("evaluation*.json")):
        report = read_json(path)
        figures = report.get("figures") if isinstance(report, dict) else None
        if not isinstance(figures, list):
            raise RunFolderError(f"{path} has no list of figures; write it by evaluate --json, or give it another name")
        for figure in figures:
            if isinstance(figure, dict) and _is_number(figure.get("value")):
                name, unit = str(figure.get("name")), str(figure.get("unit") or "")
                found[f"{name} ({unit})" if unit else name] = float(figure["value"])
    return found


def _count_parameters(run: RunFolder, sessions: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the parameters that the last session recorded, or else the size of the weights, buffers included."""
    recorded = [session["parameters"] for session in sessions if isinstance(session.get("parameters"), int)]
    if recorded:
        return int(recorded[-1])
    steps = list_checkpoint_steps(run.path)
    paths = [run.weights, *(checkpoint_folder(run.path, step) / WEIGHTS for step in steps[-1:])]
    return next((_count_weights(path) for path in paths if path.is_file()), None)


def _count_weights(path: Path) -> int | None:
    """Count the numbers in a safetensors file from its header; None if the header is invalid."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(size, _MAX_HEADER)))
        return sum(math.prod(map(int, entry["shape"])) for name, entry in header.items() if name != "__metadata__")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _tokens_per_second(
    config: ExperimentConfig,
    entries: Sequence[Mapping[str, Any]],
    speed: float | None,
    sessions: Sequence[Mapping[str, Any]],
) -> float | None:
    """Return the tokens/s of the log, or else those of rows of a fixed length, padding included."""
    logged = [float(e["tokens_per_second"]) for e in entries if _is_positive(e.get("tokens_per_second"))]
    if logged:
        return statistics.median(logged)
    training = config.training
    named = [entry for entry in config.datasets or () if training is None or training.dataset in (None, entry.name)]
    entry: Any = named[0] if len(named) == 1 else None
    if speed is None or training is None or getattr(entry, "layout", None) not in ("cut", "packed"):
        return None
    processes = sessions[-1].get("processes") if sessions else 1
    count = processes if isinstance(processes, int) else 1
    rows = training.batch_size * training.gradient_accumulation_steps * count
    return speed * rows * float(entry.limit) if entry.limit else None


def _seconds(entries: Sequence[Mapping[str, Any]], sessions: Sequence[Mapping[str, Any]]) -> float | None:
    """Add up the time of the logged steps; a session's clock starts at its first step."""
    starts = [session["from_step"] for session in sessions if isinstance(session.get("from_step"), int)]
    total, last = 0.0, 0
    for entry in entries:
        if _is_positive(entry.get("steps_per_second")):
            first = max([last, *(start for start in starts if start < entry["step"])])
            total += (entry["step"] - first) / entry["steps_per_second"]
            last = entry["step"]
    return total or None
