"""Read a file with all its sections as an `ExperimentConfig`; all problems of all sections are reported in one run."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import SerializeAsAny

from data_manager.dataset_types import DatasetConfig, GlobalConfig
from data_manager.parse_data_args import check_section, read_data_sections
from model.model_types import ModelConfig
from model.parse_model_args import read_model_section
from model_factory.experiment.check_context import Context
from model_factory.experiment.cross_checks import CHECKS
from model_factory.experiment.file_headers import CHECKS as HEADER_CHECKS
from model_factory.experiment.path_values import fill_paths
from model_factory.experiment.pretrained.section import fill_pretrained
from model_factory.experiment.training_types import GenerationConfig, TrainingConfig
from model_factory.yaml_config.document import Document, read_document
from model_factory.yaml_config.errors import ConfigValueError, Problem
from model_factory.yaml_config.node import Node
from model_factory.yaml_config.overrides import suggest_sweep
from model_factory.yaml_config.paths import find_config
from model_factory.yaml_config.registry import closest
from model_factory.yaml_config.strict_model import StrictModel
from model_factory.yaml_config.synonyms import find_synonym

MODEL_SECTIONS = ("model",)
DATA_SECTIONS = ("global_config", "datasets")
OTHER_SECTIONS = ("training", "generation")
SECTIONS = (*MODEL_SECTIONS, *DATA_SECTIONS, *OTHER_SECTIONS)


class ExperimentConfig(StrictModel):
    """All sections of a file; an absent one is None."""

    model: ModelConfig | None = None
    global_config: GlobalConfig | None = None
    datasets: list[SerializeAsAny[DatasetConfig]] | None = None
    training: TrainingConfig | None = None
    generation: GenerationConfig | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the content of a file that reads back as this experiment, with every default."""
        sections: dict[str, Any] = {}
        if self.model is not None:
            sections["model"] = self.model.to_section()
        if self.global_config is not None:
            sections["global_config"] = self.global_config.model_dump(mode="json", by_alias=True)
        if self.datasets is not None:
            sections["datasets"] = [
                entry.model_dump(mode="json", by_alias=True, exclude={"global_config"}) for entry in self.datasets
            ]
        for name in OTHER_SECTIONS:
            section = getattr(self, name)
            if section is not None:
                sections[name] = section.model_dump(mode="json", by_alias=True)
        return sections


@dataclass(frozen=True)
class Experiment:
    """Valid experiment with the tree that it was read from."""

    config: ExperimentConfig
    root: Node

    @property
    def context(self) -> Context:
        """Return the context of the checks between sections."""
        config = self.config
        return Context(self.root, config.model, config.datasets or (), config.training, config.generation)

    def check_trainable(self) -> None:
        """Raise ConfigValueError if a file without the section `training` cannot be trained with its defaults."""
        if self.config.training is None:
            problems = _find_contradictions(replace(self.context, training=TrainingConfig()))
            if problems:
                raise ConfigValueError(problems)


def read_experiment(
    path: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    only: Sequence[str] = SECTIONS,
    *,
    will_train: bool = True,
) -> Experiment:
    """Read and check a file; `only` limits which sections are looked at. `configs/...` is found from any folder.

    Set `will_train=False` for the config of a run that is evaluated: its data and starting weights may have moved since.

    Raises ConfigError with all problems: ConfigFileError or ConfigSyntaxError where reading stopped.
    """
    document = read_document(find_config(path), overrides)
    problems = [*document.problems, *_root_problems(document, only)]
    root, more = fill_pretrained(document.root)
    problems += more
    if will_train:
        root, more = fill_paths(root)
        problems += more
    found: dict[str, Any] = {}
    sections = {name: node for name, node in root.entries.items() if name in only}
    if "model" in sections:
        found["model"], more = read_model_section(sections["model"])
        problems += more
    datasets, data_problems = read_data_sections(sections.get("datasets"), sections.get("global_config"))
    problems += data_problems
    for name, kind in (("training", TrainingConfig), ("generation", GenerationConfig)):
        if name in sections:
            checked = check_section(sections[name], kind, name)
            found[name] = checked.value
            problems += checked.problems
    context = Context(
        root=root,
        model=found.get("model"),
        datasets=() if data_problems else datasets,
        training=found.get("training"),
        generation=found.get("generation"),
        will_train=will_train,
        knows_data="datasets" in only,
    )
    problems += _find_contradictions(context)
    if problems:
        raise ConfigValueError(map(suggest_sweep, problems))
    if "datasets" in sections:
        found |= {"datasets": datasets, "global_config": datasets[0].global_config}
    elif "global_config" in sections:
        found["global_config"] = check_section(sections["global_config"], GlobalConfig, "global_config").value
    return Experiment(ExperimentConfig(**found), root)


def _find_contradictions(context: Context) -> list[Problem]:
    return [problem for check in (*CHECKS, *HEADER_CHECKS) for problem in check(context)]


_KINDS: tuple[tuple[str, type[StrictModel]], ...] = (("training", TrainingConfig), ("generation", GenerationConfig))
"""Sections whose keys may have been written at the root."""


def _network_section(root: Node) -> str:
    """Return the path of the section with the network's sizes in this file."""
    model = root.child("model")
    parts = model.entries if model is not None else {}
    return f"model.{next((part for part in ('encoder', 'decoder', 'backbone') if part in parts), 'encoder')}"


def _root_problems(document: Document, only: Sequence[str]) -> list[Problem]:
    """Return the problems of unknown sections, and of a file without any section asked for.

    Keys that begin with `x-` are ignored: they hold what anchors share.
    """
    problems = []
    root = document.root
    for name, node in root.entries.items():
        if name in SECTIONS or name.startswith("x-"):
            continue
        near = closest(name, [section for section in SECTIONS if section not in root.entries])
        hint = (
            f"; did you mean {near!r}?"
            if near
            else f"; sections are {', '.join(SECTIONS)}; keys that only hold anchors begin with x-"
        )
        if near is None and name in ("encoder", "decoder", "model_type"):
            near, hint = f"model.{name}", "; it belongs under 'model:'"
        found = find_synonym(name, "", [section for section in SECTIONS if section not in root.entries])
        if found is not None:
            near = found[1].replace("model.encoder", _network_section(root))
            hint = found[0].hint(near)
        owner = next((section for section, kind in _KINDS if name in kind.model_fields), None)
        if owner is not None:
            near, hint = f"{owner}.{name}", f"; it belongs under '{owner}:'"
        place = node.key_place or node.place
        problems.append(Problem(place, name, "unknown_key", f"unknown section {name!r}{hint}", near))
    wanted = [name for name in only if name != "global_config"]
    if not any(name in root.entries for name in only) and not problems:
        message = f"the file has none of the sections {', '.join(wanted)}"
        problems.append(Problem(replace(root.place, width=1), "", "missing_key", message))
    return problems
