"""A file with all its sections to an `ExperimentConfig`; every problem of every section is found in one run."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import SerializeAsAny

from data_manager.dataset_types import DatasetConfig, GlobalConfig
from data_manager.parse_data_args import check_section, read_data_sections
from experiment.condition_size import condition_problems
from experiment.feature_width import feature_problems
from experiment.latent_fit import latent_problems
from experiment.named_data import named_data_problems
from experiment.shipped import find_config
from model.model_types import ModelConfig
from model.parse_model_args import read_model_section
from training.config_types import GenerationConfig, TrainingConfig
from yaml_config.document import Document, read_document
from yaml_config.errors import ConfigValueError, Problem
from yaml_config.node import Node
from yaml_config.registry import closest
from yaml_config.strict_model import StrictModel

MODEL_SECTIONS = ("model",)
DATA_SECTIONS = ("global_config", "datasets")
OTHER_SECTIONS = ("training", "generation")
SECTIONS = (*MODEL_SECTIONS, *DATA_SECTIONS, *OTHER_SECTIONS)


class ExperimentConfig(StrictModel):
    """Everything that one file says; a section that is absent is None."""

    model: ModelConfig | None = None
    global_config: GlobalConfig | None = None
    datasets: list[SerializeAsAny[DatasetConfig]] | None = None
    training: TrainingConfig | None = None
    generation: GenerationConfig | None = None

    def to_dict(self) -> dict[str, Any]:
        """The file that reads back as this experiment, every default written out."""
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
    """A checked experiment with the tree that it was read from."""

    config: ExperimentConfig
    root: Node


def read_experiment(
    path: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    only: Sequence[str] = SECTIONS,
    *,
    will_train: bool = True,
) -> Experiment:
    """Read and check a file; `only` limits which sections are looked at. `configs/...` is found from any folder.

    Without `will_train`, the data may be others than those that `training` names, as of a run that is measured on them.

    Raises ConfigError with all problems: ConfigFileError or ConfigSyntaxError where reading stopped.
    """
    document = read_document(find_config(path), overrides)
    problems = [*document.problems, *_root_problems(document, only)]
    root = document.root
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
    problems += list(_between_sections(found, root))
    if will_train and not data_problems:
        problems += named_data_problems(found.get("training"), datasets, root)
    if found.get("model") is not None:
        problems += feature_problems(found["model"], datasets, root, has_training="training" in sections)
        trained_on = getattr(found.get("training"), "dataset", None)
        problems += condition_problems(found["model"], datasets, root, trained_on)
        problems += latent_problems(found["model"], datasets, root, found.get("training"))
    if problems:
        raise ConfigValueError(problems)
    if "datasets" in sections:
        found |= {"datasets": datasets, "global_config": datasets[0].global_config}
    elif "global_config" in sections:
        found["global_config"] = check_section(sections["global_config"], GlobalConfig, "global_config").value
    return Experiment(ExperimentConfig(**found), root)


def _unfit_sampler(name: str, section: Any) -> tuple[str, str]:
    """What is wrong with a sampler that does not fit a diffusion section, and what to write instead."""
    from diffusion.registry import OBJECTIVES, SAMPLERS

    is_known = name in SAMPLERS or name == "ddim"
    fix = closest(name, list(section.samplers)) or section.samplers[0]
    if not hasattr(section, "objective"):
        of = "a diffusion of latents"
    else:
        blockwise = OBJECTIVES.get(section.objective.type).blockwise
        of = f"objective {section.objective.type}" if blockwise else f"{section.process.type} noise"
    wrong = f"does not fit {of}" if is_known else "is unknown"
    fitting = f"of {of} {'is' if len(section.samplers) == 1 else 'are'} {', '.join(section.samplers)}"
    return f"sampler {name!r} {wrong}; {fitting}; try {fix}", fix


def _between_sections(found: dict[str, Any], root: Node) -> Iterator[Problem]:
    """What one section asks of another that it cannot give."""
    model, generation = found.get("model"), found.get("generation")
    if model is None or generation is None:
        return
    section = model.config if model.model_type in ("diffusion", "latent_diffusion") else None
    for key in ("sampler", "steps", "guidance"):
        node = root.at(("generation", key))
        if node is None or node.value is None:
            continue
        message = fix = None
        if section is None:
            message = f"{key} is of diffusion models, and this model is of type {model.model_type}"
        elif key == "sampler" and (name := generation.sampler_name) not in section.samplers:
            message, fix = _unfit_sampler(name, section)
        elif key == "steps" and generation.steps > getattr(
            getattr(section, "diffusion", None), "num_steps", generation.steps
        ):
            message = f"steps {generation.steps} are more than the diffusion's num_steps {section.diffusion.num_steps}"
        elif key == "guidance" and getattr(section, "condition", None) is None:
            message = "guidance needs a condition in the model's section"
        if message:
            yield Problem(node.place, f"generation.{key}", "relation", message, fix)


def _root_problems(document: Document, only: Sequence[str]) -> list[Problem]:
    """Sections that do not exist, and a file that has none of those asked for.

    Keys that begin with `x-` are left alone: they hold what anchors share.
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
        place = node.key_place or node.place
        problems.append(Problem(place, name, "unknown_key", f"unknown section {name!r}{hint}", near))
    wanted = [name for name in only if name != "global_config"]
    if not any(name in root.entries for name in only) and not problems:
        message = f"the file has none of the sections {', '.join(wanted)}"
        problems.append(Problem(replace(root.place, width=1), "", "missing_key", message))
    return problems
