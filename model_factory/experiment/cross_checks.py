"""All checks between sections: model, data sets, training and generation. No torch is imported and no data is read.

Each of `CHECKS` takes one `Context` and yields the problems that it finds; `find_notes` collects remarks that do not make
a file invalid. `model_factory.experiment.file_headers` holds the checks that open files which the config names.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from glob import glob
from typing import Any

from data_manager.dataset_types import DatasetConfig
from data_manager.registry import SOURCES
from data_manager.row_types import TokensConfig
from data_manager.speech.types import SpeechConfig
from data_manager.text.mixture_types import MixtureDatasetConfig
from data_manager.text.table_types import ColumnsConfig, HubDatasetConfig
from data_manager.text.types import CorpusConfig, EmbeddedDatasetConfig, FilesConfig
from model.model_types import ModelConfig
from model.types import PerformerParams
from model_factory.experiment.task_registry import TASKS, choose_task
from model_factory.experiment.training_types import GenerationConfig, TrainingConfig
from model_factory.yaml_config.check import advice
from model_factory.yaml_config.errors import Problem
from model_factory.yaml_config.node import Node, dotted
from model_factory.yaml_config.registry import closest
from model_factory.yaml_config.strict_model import Location, StrictModel

TRAIN_SPLITS = ("train",)
EVALUATION_SPLITS = ("validation", "valid", "val", "dev")
FEWEST_TOKENS = {"bytes": 259, "bpe": 260}
"""Tokens of a tokenizer by its type, at least: the bytes and special tokens."""
LONGEST_NAME = 200
"""Bytes of a name; file systems take 255, and suffixes are added to it."""
_BERT_POSITIONS = 512
_SPEECH_TASKS = ("speech_recognition", "diarization")
_DISCRETE, _LATENT = "diffusion", "latent_diffusion"


@dataclass(frozen=True)
class Context:
    """All sections of a file (None where absent or invalid), and the tree in which problems find their lines."""

    root: Node
    model: ModelConfig | None = None
    datasets: Sequence[DatasetConfig] = ()
    training: TrainingConfig | None = None
    generation: GenerationConfig | None = None
    will_train: bool = True
    """False for the config of a finished run, whose data and starting weights may have been moved since."""

    @cached_property
    def dataset(self) -> DatasetConfig | None:
        """Return the data set to train on; None without data, or if `training.dataset` does not select one of several."""
        wanted = self.training.dataset if self.training else None
        found = [entry for entry in self.datasets if wanted in (None, entry.name)]
        return found[0] if len(found) == 1 else None

    @property
    def dataset_path(self) -> Location:
        """Return the path of the data set to train on."""
        assert self.dataset is not None
        return ("datasets", [entry.name for entry in self.datasets].index(self.dataset.name))

    @property
    def trains(self) -> bool:
        """Return True if the file trains a model: it has the section `training`, a model and data."""
        return self.will_train and self.training is not None and self.model is not None and bool(self.datasets)

    @cached_property
    def columns(self) -> frozenset[str] | None:
        """Return the columns of the data set to train on; None if unknown."""
        return None if self.dataset is None else columns_of(self.dataset)

    @cached_property
    def splits(self) -> list[str] | None:
        """Return the splits of the data set to train on; None if only the data tell."""
        return None if self.dataset is None else splits_of(self.dataset)

    @cached_property
    def task(self) -> str | None:
        """Return the name of the task that is trained; None if nothing is trained, or no task is known to fit."""
        if not self.trains or self.model is None or self.training is None or self.columns is None:
            return None
        kind, wanted = self.model.model_type, self.training.task_name
        if wanted is None:
            return choose_task(kind, self.columns)
        return wanted if TASKS.get(wanted).fits(kind, self.columns) else None

    def problem(self, path: Location, message: str, fix: str | None = None) -> Problem:
        """Return a problem at the nearest node to `path`; `fix` is appended to the message and kept as suggestion."""
        hint = f"; {advice(fix)}" if fix else ""
        return Problem(self.node(path).shown_at, dotted(path), "relation", message + hint, fix)

    def node(self, path: Location) -> Node:
        """Return the node of a path, of the default that fills it, or of the closest parent that is in the file."""
        places = [path]
        if len(path) > 2 and path[0] in ("model", "datasets"):
            shared = ("model", "global_config") if path[0] == "model" else ("global_config",)
            places.append((*shared, *path[2:]))
        places += [path[:depth] for depth in range(len(path) - 1, 0, -1)]
        return next((node for place in places if (node := self.root.at(place)) is not None), self.root)

    def has(self, path: Location) -> bool:
        """Return True if the file gives a value at `path`."""
        node = self.root.at(path)
        return node is not None and node.value is not None


Check = Callable[[Context], Iterator[Problem]]


def find_notes(context: Context) -> list[Problem]:
    """Return remarks on a valid file: settings that this machine cannot follow, or that have no effect."""
    return [note for check in _NOTES for note in check(context)]


def columns_of(entry: DatasetConfig) -> frozenset[str] | None:
    """Return the columns of a data set's rows; None for a source that a plugin registered."""
    if isinstance(entry, SpeechConfig):
        return frozenset(("features", "text"))
    if not _is_built_in(entry) or not isinstance(entry, TokensConfig):
        return None
    if entry.is_paired:
        return frozenset(("source_ids", "target_ids"))
    columns = {"input_ids"}
    if isinstance(entry, ColumnsConfig) and entry.label is not None:
        columns.add("labels")
    if isinstance(entry, CorpusConfig) and entry.condition_names:
        columns.add("cond")
    return frozenset(columns)


def splits_of(entry: DatasetConfig) -> list[str] | None:
    """Return the names of a data set's splits; None if only the data tell."""
    if isinstance(entry, CorpusConfig) and entry.splits:
        return list(entry.splits)
    if isinstance(entry, FilesConfig):
        return list(entry.data_files)
    if isinstance(entry, EmbeddedDatasetConfig):
        return ["train", "validation", "test"]
    if isinstance(entry, HubDatasetConfig):
        return list(entry.hub_splits()) or None
    if isinstance(entry, MixtureDatasetConfig):
        parts = [splits_of(part) for part in entry.entries]
        known = [part for part in parts if part is not None]
        return list(dict.fromkeys(name for part in known for name in part)) if len(known) == len(parts) else None
    return None


def find_split(names: Sequence[str], wanted: str | None, usual: Sequence[str]) -> str | None:
    """Return the split that is used: the wanted one, one of a usual name, or the first that begins like one."""
    if wanted is not None:
        return wanted if wanted in names else None
    exact = [name for word in usual for name in names if name == word]
    return next(iter([*exact, *(name for word in usual for name in names if name.startswith(word))]), None)


def _is_built_in(entry: DatasetConfig) -> bool:
    return entry.source in SOURCES and type(entry).__module__.startswith("data_manager.")


def _names(context: Context) -> Iterator[Problem]:
    """Check that the names of data sets can be used for folders."""
    for index, entry in enumerate(context.datasets):
        path, size = ("datasets", index, "name"), len(entry.name.encode("utf-8", "surrogatepass"))
        if not entry.name.isprintable():
            yield context.problem(path, "a name must not hold line breaks or control characters, as it names folders")
        elif size > LONGEST_NAME:
            yield context.problem(path, f"the name has {size} bytes, and may have {LONGEST_NAME}, as it names folders")


def _named_data(context: Context) -> Iterator[Problem]:
    """Check that the data set and the splits that `training` names exist, and that it is clear which are meant."""
    training, names = context.training, [entry.name for entry in context.datasets]
    if not context.will_train or training is None or not names:
        return
    if training.dataset is not None and training.dataset not in names:
        yield _unknown_name(context, "dataset", training.dataset, names, "the data sets are")
        return
    if context.dataset is None:
        if context.trains:
            listed = ", ".join(names)
            message = f"there are {len(names)} data sets ({listed}), and training does not name the one to train on"
            yield context.problem(("training", "dataset"), message, f"dataset: {names[0]}")
        return
    splits = context.splits
    if splits is None:
        return
    for key in ("train_split", "eval_split"):
        wanted = getattr(training, key)
        if wanted is not None and wanted not in splits:
            yield _unknown_name(context, key, wanted, splits, f"data set {context.dataset.name!r} has the splits")
    if (
        context.trains
        and training.train_split is None
        and len(splits) > 1
        and not find_split(splits, None, TRAIN_SPLITS)
    ):
        message = f"data set {context.dataset.name!r} has the splits {', '.join(splits)}, and none is called train"
        yield context.problem(("training", "train_split"), message, f"train_split: {splits[0]}")


def _unknown_name(context: Context, key: str, name: str, known: list[str], owner: str) -> Problem:
    near = closest(name, known)
    hint = f"; did you mean {near!r}?" if near else ""
    message = f"training names {name!r}, and {owner} {', '.join(known)}{hint}"
    path = ("training", key)
    return Problem(context.node(path).shown_at, dotted(path), "relation", message, near)


def _lacks_evaluation(context: Context) -> bool:
    assert context.training is not None
    splits = context.splits
    return splits is not None and find_split(splits, context.training.eval_split, EVALUATION_SPLITS) is None


def _evaluation(context: Context) -> Iterator[Problem]:
    """Check that there is a split to evaluate on, where evaluations decide something."""
    training = context.training
    if not context.trains or training is None or context.splits is None or context.dataset is None:
        return
    if training.eval_split is not None or not _lacks_evaluation(context):
        return
    named = ", ".join(context.splits)
    for key in ("early_stopping_patience", "load_best_model_at_end"):
        if getattr(training, key):
            message = f"{key} needs evaluations, and data set {context.dataset.name!r} has only the splits {named}"
            yield context.problem(("training", key), message, "add a split validation, or name one as eval_split")


def _rows(context: Context) -> Iterator[Problem]:
    """Check that the rows can be counted, ordered and learnt from."""
    entry = context.dataset
    if not context.trains or entry is None:
        return
    path = context.dataset_path
    if isinstance(entry, SpeechConfig) and entry.loading.max_duration is not None:
        message = "a training step has training.batch_size rows, and max_duration asks for batches of so many seconds"
        yield context.problem((*path, "loading", "max_duration"), message, "leave it out")
    if not isinstance(entry, TokensConfig):
        return
    if entry.streaming:
        message = "training counts its rows to order them, and a stream has no count"
        fix = "leave streaming out: rows are prepared once, and read from disk as they are needed"
        yield context.problem((*path, "streaming"), message, fix)
    least = 3 if entry.layout == "whole" else 2 if context.task == "language_modelling" else 1
    if entry.limit is not None and entry.limit < least and entry.too_long != "cut":
        why = (
            "a whole text has a token before and after it"
            if least == 3
            else "each token is predicted from those before"
        )
        message = f"{why}, so rows of {entry.limit} token{'s'[: entry.limit - 1]} hold nothing to learn"
        yield context.problem((*path, "sequence_length"), message, f"sequence_length: {least}")


def _task(context: Context) -> Iterator[Problem]:
    """Check that a task trains this type of model on this data set."""
    model, training, entry = context.model, context.training, context.dataset
    if not context.trains or model is None or training is None or entry is None or context.columns is None:
        return
    if context.task is not None or (model.model_type == _LATENT and "source_ids" in context.columns):
        return  # pairs for a latent model are reported by `_latent_rows`
    kind, found = model.model_type, choose_task(model.model_type, context.columns)
    rows = f"data set {entry.name!r} has {_content(context.columns)}"
    if training.task_name is not None:
        takes = TASKS.get(training.task_name).describe()
        message = f"task {training.task_name} takes {takes}, and this model is of type {kind}, and {rows}"
        yield context.problem(("training", "task"), message, f"task: {found}" if found else None)
    if found is None:
        message = f"no task trains a model of type {kind} on this data: {rows}"
        yield context.problem(context.dataset_path, message, _remedy(kind, context.columns))


def _content(columns: frozenset[str]) -> str:
    """Return what rows with these columns hold, in words."""
    listed = ", ".join(sorted(columns))
    if "features" in columns:
        return f"speech ({listed})"
    if "source_ids" in columns:
        return f"pairs of texts ({listed})"
    return f"text{' with classes' if 'labels' in columns else ' without classes'} ({listed})"


def _remedy(kind: str, columns: frozenset[str]) -> str | None:
    """Return what to write where no task fits."""
    if "features" in columns:
        return "model_type: encoder"
    one_text = "data_files with one text a split"
    if "source_ids" in columns:
        return f"model_type: encoder_decoder, or {one_text}"
    return {
        "encoder": "add label: COLUMN to a data set of columns (json, csv, parquet), or model_type: decoder",
        "encoder_decoder": "data_files: {train: {source: a.en, target: a.de}}, or model_type: decoder",
    }.get(kind)


def _settings_of_tasks(context: Context) -> Iterator[Problem]:
    """Check that the settings of single tasks belong to the task that is trained."""
    training, task = context.training, context.task
    if training is None or task is None or context.columns is None:
        return
    if training.speech is not None and task in _OWN_TASKS and task not in _SPEECH_TASKS:
        message = f"speech is for {' and '.join(_SPEECH_TASKS)}, and the task is {task}"
        yield context.problem(("training", "speech"), message, "leave it out")
    if training.num_labels is not None and task in _OWN_TASKS and "labels" not in context.columns:
        message = f"num_labels is for rows with a class, and the task is {task}"
        yield context.problem(("training", "num_labels"), message, "leave it out")
    if training.loss_weighting != "bound" and task in _OWN_TASKS and task != "diffusion":
        message = f"loss_weighting is for diffusion, and the task is {task}"
        yield context.problem(("training", "loss_weighting"), message, "leave it out")
    classes = getattr(context.dataset, "classes", None)
    if task == "sequence_classification" and classes and training.num_labels and training.num_labels < len(classes):
        message = (
            f"num_labels is {training.num_labels}, and data set {context.dataset.name!r} names {len(classes)} classes"  # type: ignore[union-attr]
        )
        yield context.problem(("training", "num_labels"), message, f"num_labels: {len(classes)}")


_OWN_TASKS = (
    *("sequence_classification", "language_modelling", "translation", *_SPEECH_TASKS),
    *("latent_diffusion", "diffusion"),
)


def _speech_task(context: Context) -> Iterator[Problem]:
    """Check that a speech corpus gives what its task needs: a tokenizer, or who speaks."""
    entry, task = context.dataset, context.task
    if task not in _SPEECH_TASKS or not isinstance(entry, SpeechConfig):
        return
    path = context.dataset_path
    if task == "speech_recognition" and entry.tokenizer is None:
        message = f"speech recognition writes tokens, and data set {entry.name!r} has no tokenizer"
        fix = "training: {task: diarization}" if entry.loading.speakers else "tokenizer: {type: characters}"
        yield context.problem(path, message, fix)
    if task == "diarization" and entry.tokenizer is not None:
        message = "diarization writes no text, and this data set has a tokenizer"
        yield context.problem((*path, "tokenizer"), message, "leave it out")
    if task == "diarization" and not entry.loading.speakers:
        message = f"diarization needs to know who speaks, and data set {entry.name!r} does not load speakers"
        yield context.problem((*path, "loading"), message, "loading: {speakers: true}")
    if entry.features.width() is None:
        message = f"the width of {entry.features.type} features depends on the sampling rate, which is left out"
        yield context.problem((*path, "features"), message, "sampling_rate: 16000")


def _feature_width(context: Context) -> Iterator[Problem]:
    """Check that frames of speech are as wide as `input_dim`, or as d_model where that is left out.

    With `training`, or beside text data, a model without `input_dim` reads something else. Parts of a mixture are left
    to the mixture.
    """
    if context.model is None:
        return
    stack = next((value for _, value in context.model.config if isinstance(value, PerformerParams)), None)
    parts = getattr(context.model.config, "parts", None)
    if stack is None or not parts:
        return
    speech = [entry for entry in context.datasets if isinstance(entry, SpeechConfig)]
    reads_text = stack.vocab_size is not None or len(speech) < len(context.datasets)
    if stack.input_dim is None and (reads_text or context.root.child("training") is not None):
        return
    mixed = {name for entry in context.datasets for name in getattr(entry, "datasets", ())}
    given = "is left out" if stack.input_dim is None else f"is {stack.input_dim}"
    for entry in speech:
        width = entry.features.width() if entry.name not in mixed else None
        if width not in (None, stack.input_dim or stack.d_model):
            kind, fix = entry.features.type, f"input_dim: {width}"
            message = f"input_dim {given}, and {kind} features of data set {entry.name!r} have {width} numbers a frame"
            path = ("model", parts[0], "input_dim")
            yield Problem(context.node(path).shown_at, dotted(path), "relation", f"{message}; write {fix}", fix)


def _token_input(context: Context) -> Iterator[Problem]:
    """Check that a stack that is trained on tokens reads tokens, and attends to nothing that is not there."""
    if context.model is None or context.task not in _OWN_TASKS or context.task in _SPEECH_TASKS:
        return
    for part, stack in _stacks(context.model):
        if stack.input_dim is not None:
            message = f"input_dim is the width of float input, and data set {_name(context)!r} gives token ids"
            yield context.problem(("model", part, "input_dim"), message, "leave it out")
    if context.task == "language_modelling" and getattr(context.model.config, "use_cross_attention", False):
        message = "cross-attention needs a context, and language modelling gives none"
        fix = "leave it out, or model_type: encoder_decoder"
        yield context.problem(("model", "decoder", "use_cross_attention"), message, fix)


def _stacks(model: ModelConfig) -> list[tuple[str, PerformerParams]]:
    """Return the encoder and the decoder of a transformer, by the names of their sections."""
    if model.model_type in (_DISCRETE, _LATENT):
        return []
    fields = type(model.config).model_fields
    found = ((fields[name].alias or name, value) for name, value in model.config if isinstance(value, PerformerParams))
    return list(found)


def _name(context: Context) -> str:
    assert context.dataset is not None
    return context.dataset.name


def _lengths(context: Context) -> Iterator[Problem]:
    """Check that rows are no longer than the model can read."""
    entry, model = context.dataset, context.model
    if model is None or model.model_type == _LATENT or not isinstance(entry, TokensConfig) or entry.limit is None:
        return
    limits: list[tuple[Location, str, int | None]] = []
    for part, stack in _stacks(model):
        limits.append((("model", part, "max_length"), part, stack.max_length))
    if model.model_type == _DISCRETE:
        section: Any = model.config
        limits.append((("model", "backbone", "max_length"), "backbone", getattr(section.backbone, "max_length", None)))
    for path, part, longest in limits:
        shifted = part == "decoder"  # its input lacks the last token, which is only predicted
        if longest is not None and entry.limit - shifted > longest:
            message = f"rows have up to {entry.limit} tokens, and the {part} reads at most {longest}"
            yield context.problem(path, message, f"sequence_length: {longest}, or max_length: {entry.limit}")


def _vocabulary(context: Context) -> Iterator[Problem]:
    """Check that a model that reads tokens has a vocabulary, and one that is large enough."""
    model = context.model
    if model is None:
        return
    given: list[tuple[Location, int | None]] = []
    if model.model_type == _DISCRETE:
        given = [(("model", "vocab_size"), getattr(model.config, "vocab_size", None))]
    elif model.model_type == _LATENT:
        parts: Any = model.config
        own = ((name, getattr(parts, name)) for name in ("encoder", "decoder"))
        given = [
            (("model", name, "vocab_size"), part.vocab_size)
            for name, part in own
            if hasattr(part, "vocab_size") and getattr(part, "path", None) is None
        ]
    else:
        given = [
            (("model", part, "vocab_size"), stack.vocab_size) for part, stack in _stacks(model) if stack.vocab_size
        ]
    has_data = context.root.child("datasets") is not None
    tokenizer = getattr(context.dataset, "tokenizer", None)
    for path, size in given:
        if size is None and not has_data:
            message = "vocab_size is missing, and there is no data set whose tokenizer would give it"
            yield context.problem(path, message, "vocab_size: 1000")
        elif size is not None and tokenizer is not None and size < (least := FEWEST_TOKENS.get(tokenizer.type, 0)):
            message = (
                f"vocab_size is {size}, and the tokenizer of data set {_name(context)!r} has {least} tokens or more"
            )
            yield context.problem(path, message, "leave it out")


def _condition(context: Context) -> Iterator[Problem]:
    """Check that the data set gives the properties or the classes that the model's condition asks for."""
    entry: Any = context.dataset
    condition: Any = getattr(context.model.config, "condition", None) if context.model else None
    if condition is None or entry is None:
        return
    names = entry.condition_names if isinstance(entry, CorpusConfig) else None
    if condition.size is not None and names is not None and len(names) != condition.size:
        given = f"data set {entry.name!r} gives {len(names) or 'none'}" + (f": {', '.join(names)}" if names else "")
        fix = f"size: {len(names)}" if names else "properties: [logp, qed] in a data set of smiles"
        message = f"a condition of size {condition.size} asks for as many properties of each row, and {given}"
        yield context.problem(("model", "condition", "size"), message, fix)
    elif (
        context.trains and condition.size is not None and context.columns is not None and "cond" not in context.columns
    ):
        message = f"the condition asks for properties of each row, and data set {entry.name!r} has none"
        yield context.problem(("model", "condition", "size"), message, "leave the condition out")
    classes = getattr(entry, "classes", None)
    if condition.num_classes is not None and classes and len(classes) != condition.num_classes:
        message = f"num_classes is {condition.num_classes}, and data set {entry.name!r} names {len(classes)} classes"
        yield context.problem(("model", "condition", "num_classes"), message, f"num_classes: {len(classes)}")
    elif context.trains and condition.num_classes is not None and context.columns and "labels" not in context.columns:
        message = f"the condition asks for the class of each row, and data set {entry.name!r} has none"
        yield context.problem(
            ("model", "condition", "num_classes"), message, "add label: COLUMN to a data set of columns"
        )


def _stages(context: Context) -> Iterator[Problem]:
    """Check that stages belong to a latent diffusion model."""
    if context.model is None or context.training is None or context.training.stages is None:
        return
    if context.model.model_type != _LATENT:
        message = f"stages are for latent diffusion, and this model is of type {context.model.model_type}"
        yield context.problem(("training", "stages"), message, "leave it out")


def _latent_rows(context: Context) -> Iterator[Problem]:
    """Check that rows fit a latent diffusion model: whole texts, no longer than its parts can read."""
    entry, model = context.dataset, context.model
    if model is None or model.model_type != _LATENT or not isinstance(entry, TokensConfig):
        return
    path = context.dataset_path
    if entry.is_paired:
        message = "a latent encodes one text, and this data set has pairs; give it one of the two files alone"
        yield context.problem(path, message, "data_files: {train: train.en}")
    elif entry.layout != "whole":
        message = f"a latent encodes a whole text, and rows are {entry.layout}"
        yield context.problem((*path, "rows"), message, "rows: whole")
    for name in ("encoder", "decoder"):
        capacity = capacity_of(getattr(model.config, name))
        if capacity is not None and entry.limit is not None and entry.limit > capacity:
            message = f"rows have up to {entry.limit} tokens, and the {name} reads at most {capacity}"
            fix = f"sequence_length: {capacity}, or a longer max_length"
            yield context.problem(("model", name, "max_length"), message, fix)


def capacity_of(part: Any) -> int | None:
    """Return the tokens that a part of a latent model, built from scratch, can read; None without a known limit."""
    if getattr(part, "path", None) is not None or not hasattr(part, "max_length"):
        return None
    longest: int | None = part.max_length
    if longest is None:
        longest = _BERT_POSITIONS if hasattr(part, "hidden_size") else None
    if longest is None:
        return None
    slots = 1 if getattr(part, "latent_as_gpt_memory", False) else 0
    return longest - slots - getattr(part, "slots_in_front", 0)


def _devices(context: Context) -> Iterator[Problem]:
    """Check that the model is on one device, and that the device can do what `training` asks for."""
    if not context.trains or context.model is None or context.training is None:
        return
    found = list(_device_settings(context.model.config, ("model",)))
    explicit = {device for _, device in found if device != "auto"}
    if len(explicit) > 1:
        path = next(path for path, device in reversed(found) if device != "auto")
        message = f"training takes a model on one device, and this one is on {' and '.join(sorted(explicit))}"
        yield context.problem(path, message, "device: auto for all parts")
    on_cpu = "cpu" in explicit
    training: Any = context.training
    for key, reason in (("fp16", "bf16: true, which works there"), ("fsdp", "leave it out")):
        if getattr(training, key) and on_cpu:
            yield context.problem(("training", key), f"{key} needs a GPU, and the model is on the CPU", reason)
    if training.fsdp and context.model.model_type == _LATENT:
        message = "fsdp shards weights that take part in every step, and stages of a latent model leave some out"
        yield context.problem(("training", "fsdp"), message, "leave it out: DDP fits this model")


def _device_settings(config: Any, path: Location) -> Iterator[tuple[Location, str]]:
    """Yield every `device` in a config with its path."""
    if isinstance(config, StrictModel):
        for name, field in type(config).model_fields.items():
            value, here = getattr(config, name), (*path, field.alias or name)
            if name == "device" and isinstance(value, str):
                yield here, value
            else:
                yield from _device_settings(value, here)


def _diffusion_generation(context: Context) -> Iterator[Problem]:
    """Check the settings of generation that only diffusion models have."""
    model, generation = context.model, context.generation
    if model is None or generation is None:
        return
    section: Any = model.config if model.model_type in (_DISCRETE, _LATENT) else None
    for key in ("sampler", "steps", "guidance"):
        path = ("generation", key)
        if not context.has(path):
            continue
        message = fix = None
        if section is None:
            message = f"{key} is for diffusion models, and this model is of type {model.model_type}"
        elif key == "sampler" and (name := generation.sampler_name) not in section.samplers:
            message, fix = _unfit_sampler(str(name), section)
        elif key == "steps" and (most := _latent_steps(section)) is not None and (generation.steps or 0) > most:
            message = f"steps {generation.steps} are more than the diffusion's num_steps {most}"
        elif key == "guidance" and getattr(section, "condition", None) is None:
            message = "guidance needs a condition in the model's section"
        if message:
            yield Problem(context.node(path).place, dotted(path), "relation", message, fix)


def _latent_steps(section: Any) -> int | None:
    diffusion: Any = getattr(section, "diffusion", None)
    steps: int | None = getattr(diffusion, "num_steps", None)
    return steps


def _unfit_sampler(name: str, section: Any) -> tuple[str, str]:
    """Return the message for a sampler that does not fit a diffusion section, and what to write instead."""
    from model_factory.diffusion.registry import OBJECTIVES, SAMPLERS

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


def _token_choice(context: Context) -> Iterator[Problem]:
    """Check that the choice of tokens fits the model, and that beam search draws nothing."""
    model, generation = context.model, context.generation
    if model is None or generation is None:
        return
    if model.model_type == _DISCRETE:
        for key, is_given in (("top_k", generation.top_k is not None), ("num_beams", generation.num_beams > 1)):
            if is_given:
                message = f"{key} is for decoders and translators, and a diffusion model draws by top_p or temperature"
                yield context.problem(("generation", key), message, "leave it out")
        return
    if generation.num_beams == 1:
        return
    for key in ("top_k", "top_p"):
        if getattr(generation, key) is not None:
            message = f"{key} draws tokens, and beam search (num_beams {generation.num_beams}) draws none"
            yield context.problem(("generation", key), message, "leave one of them out")
    if generation.temperature not in (0.0, 1.0):
        message = f"temperature draws tokens, and beam search (num_beams {generation.num_beams}) draws none"
        yield context.problem(("generation", "temperature"), message, "leave one of them out")


CHECKS: tuple[Check, ...] = (
    *(_names, _named_data, _evaluation, _rows, _task, _settings_of_tasks, _speech_task, _feature_width, _token_input),
    *(_lengths, _vocabulary, _condition, _stages, _latent_rows, _devices, _diffusion_generation, _token_choice),
)


def _idle_evaluation(context: Context) -> Iterator[Problem]:
    """Note an evaluation that was asked for and never happens."""
    training = context.training
    if training is None or not context.trains or not _lacks_evaluation(context):
        return
    for key in ("eval_steps", "max_eval_samples"):
        if key in training.model_fields_set and context.has(("training", key)) and context.dataset and context.splits:
            message = f"data set {context.dataset.name!r} has only the splits {', '.join(context.splits)}"
            yield context.problem(("training", key), f"nothing is evaluated: {message}", "eval_split names one")
            return


def _absent_gpu(context: Context) -> Iterator[Problem]:
    """Note what needs a GPU, on a machine that shows none."""
    training = context.training
    if training is None or glob("/dev/nvidia[0-9]*") or os.path.exists("/dev/kfd"):
        return
    for key, fix in (("fp16", "on a CPU, bf16: true works"), ("fsdp", "it is for GPUs and torchrun")):
        if getattr(training, key):
            yield context.problem(("training", key), f"{key} needs a GPU, and this machine shows none", fix)


_NOTES: tuple[Check, ...] = (_idle_evaluation, _absent_gpu)
