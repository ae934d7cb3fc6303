"""Checks of `training` with the model and the data: data set, splits, task, devices. `cross_checks` runs them."""

import os
from collections.abc import Iterator
from glob import glob
from importlib.util import find_spec
from typing import Any

from data_manager.row_types import RESPONSES, TokensConfig
from data_manager.speech.types import SpeechConfig
from data_manager.text.mixture_types import MixtureDatasetConfig
from model.denoisers.registry import BACKBONES
from model.model_types import ModelConfig
from model_factory.experiment.check_context import (
    DIFFUSION_TASKS,
    DISCRETE,
    EVALUATION_SPLITS,
    LATENT,
    OWN_TASKS,
    SPEECH_TASKS,
    TRAIN_SPLITS,
    Check,
    Context,
    find_split,
)
from model_factory.experiment.linear_layers import layers_of_stages, linear_layers
from model_factory.experiment.task_registry import TASKS, choose_task
from model_factory.experiment.training_types import LOGGERS, TrainingConfig
from model_factory.yaml_config.errors import Problem
from model_factory.yaml_config.strict_model import Location, StrictModel

LONGEST_NAME = 200
"""Bytes of a name; file systems take 255, and suffixes are added to it."""


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
    message = f"training names {name!r}, and {owner} {', '.join(known)}"
    return context.unknown(("training", key), message, name, known)


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
        message = "a training step has training.batch_size rows, and max_duration sets the batch size in seconds"
        yield context.problem((*path, "loading", "max_duration"), message, "leave it out")
    if not isinstance(entry, TokensConfig):
        return
    if entry.streaming:
        yield from _streams(context)
    least = 3 if entry.layout == "whole" else 2 if context.task == "language_modelling" else 1
    if entry.limit is not None and entry.limit < least and entry.too_long != "cut":
        why = (
            "a whole text has a token before and after it"
            if least == 3
            else "each token is predicted from those before"
        )
        message = f"{why}, so rows of {entry.limit} token{'s'[: entry.limit - 1]} hold nothing to learn"
        yield context.problem((*path, "sequence_length"), message, f"sequence_length: {least}")


def _streams(context: Context) -> Iterator[Problem]:
    """Check that no setting needs rows that are counted, which a stream's are not."""
    training, entry = context.training, context.dataset
    assert training is not None
    unread = "a stream is not read before it trains, so"
    if isinstance(entry, MixtureDatasetConfig):
        message = "training reads a stream from one data set, and this is a mixture"
        fix = "leave streaming out: rows are prepared once, and read from disk as they are needed"
        yield context.problem((*context.dataset_path, "streaming"), message, fix)
    if training.num_train_epochs is not None:
        message = f"{unread} the number of steps of an epoch is unknown"
        yield context.problem(("training", "num_train_epochs"), message, "set max_steps in its place")
    needs_count = "labels" in (context.columns or ()) and not getattr(entry, "classes", None)
    if context.task == "sequence_classification" and needs_count and training.num_labels is None:
        message = f"{unread} the number of its classes is unknown"
        yield context.problem(("training", "num_labels"), message, "set num_labels, or classes of the data set")


def _documents(context: Context) -> Iterator[Problem]:
    """Check that the model can isolate the documents of packed rows, where the data set asks for it."""
    entry, model = context.dataset, context.model
    if context.task not in OWN_TASKS or model is None or not isinstance(entry, TokensConfig):
        return
    path = context.dataset_path
    if entry.position_ids and not entry.document_ids:
        message = "positions begin at 0 again with each document only where documents are isolated"
        yield context.problem((*path, "position_ids"), message, "add document_ids: true, or position_ids: false")
    backbone: Any = getattr(model.config, "backbone", None)
    if entry.document_ids and model.model_type == DISCRETE and not BACKBONES.get(backbone.type).takes_documents:
        message = (
            f"the backbone {backbone.type} does not isolate the documents of packed rows: it is registered without "
            "takes_documents=True"
        )
        yield context.problem((*path, "document_ids"), message, "document_ids: false")


def _task(context: Context) -> Iterator[Problem]:
    """Check that a task trains this type of model on this data set."""
    model, training, entry = context.model, context.training, context.dataset
    if not context.trains or model is None or training is None or entry is None or context.columns is None:
        return
    if context.task is not None or (model.model_type == LATENT and "source_ids" in context.columns):
        return  # pairs for a latent model are reported by `_latent_rows`
    kind, found = model.model_type, choose_task(model.model_type, context.columns)
    if RESPONSES in context.columns and choose_task(kind, context.columns - {RESPONSES}):
        return  # reported by `response_checks`
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
    if RESPONSES in columns:
        return f"texts with responses ({listed})"
    return f"text{' with classes' if 'labels' in columns else ' without classes'} ({listed})"


def _remedy(kind: str, columns: frozenset[str]) -> str | None:
    """Return what to write where no task fits."""
    if "features" in columns:
        return "model_type: encoder"
    one_text = "data_files with one text a split"
    if "source_ids" in columns:
        return f"model_type: encoder_decoder, or {one_text}"
    if RESPONSES in columns:
        return "model_type: diffusion or decoder"
    return {
        "encoder": "add label: COLUMN to a data set of columns (json, csv, parquet), or model_type: decoder",
        "encoder_decoder": "data_files: {train: {source: a.en, target: a.de}}, or model_type: decoder",
    }.get(kind)


def _settings_of_tasks(context: Context) -> Iterator[Problem]:
    """Check that the settings of single tasks belong to the task that is trained."""
    training, task = context.training, context.task
    if training is None or task is None or context.columns is None:
        return
    if training.speech is not None and task in OWN_TASKS and task not in SPEECH_TASKS:
        message = f"speech is for {' and '.join(SPEECH_TASKS)}, and the task is {task}"
        yield context.problem(("training", "speech"), message, "leave it out")
    if training.num_labels is not None and task in OWN_TASKS and "labels" not in context.columns:
        message = f"num_labels is for rows with a class, and the task is {task}"
        yield context.problem(("training", "num_labels"), message, "leave it out")
    if training.loss_weighting != "bound" and task in OWN_TASKS and task not in DIFFUSION_TASKS:
        message = f"loss_weighting is for diffusion, and the task is {task}"
        yield context.problem(("training", "loss_weighting"), message, "leave it out")
    classes = getattr(context.dataset, "classes", None)
    if task == "sequence_classification" and classes and training.num_labels and training.num_labels < len(classes):
        message = (
            f"num_labels is {training.num_labels}, and data set {context.dataset.name!r} names {len(classes)} classes"  # type: ignore[union-attr]
        )
        yield context.problem(("training", "num_labels"), message, f"num_labels: {len(classes)}")


def _adapted_layers(context: Context) -> Iterator[Problem]:
    """Check that the layers which LoRA is to adapt exist, where the config tells their names."""
    training, model = context.training, context.model
    if not context.trains or training is None or training.lora is None or model is None or context.task is None:
        return
    known = linear_layers(model, context.task)
    for index, name in enumerate(training.lora.target_modules or ()):
        if known is not None and name not in known:
            message = f"no linear layer is called {name}; this model has {', '.join(sorted(known))}"
            yield context.unknown(("training", "lora", "target_modules", index), message, name, sorted(known))
    if model.model_type == LATENT and known is not None and set(training.lora.target_modules or ()) <= known:
        yield from _adapted_stages(context, model, training)


def _adapted_stages(context: Context, model: ModelConfig, training: TrainingConfig) -> Iterator[Problem]:
    """Check that each stage of a latent diffusion model trains one of the adapted layers."""
    layers, chosen = layers_of_stages(model), training.lora.target_modules if training.lora else None
    if layers is None or chosen is None:
        return
    default = ("autoencoder", "diffusion") if training.max_steps > 1 else ("diffusion",)
    for stage in [entry.train for entry in training.stages] if training.stages else default:
        if stage in layers and not layers[stage] & set(chosen):
            message = f"the stage {stage} would train nothing: its layers are {', '.join(sorted(layers[stage]))}"
            yield context.problem(("training", "lora", "target_modules"), message, "name one of them too")


def _speech_task(context: Context) -> Iterator[Problem]:
    """Check that a speech corpus gives what its task needs: a tokenizer, or who speaks."""
    entry, task = context.dataset, context.task
    if task not in SPEECH_TASKS or not isinstance(entry, SpeechConfig):
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


def _stages(context: Context) -> Iterator[Problem]:
    """Check that stages belong to a latent diffusion model."""
    if context.model is None or context.training is None or context.training.stages is None:
        return
    if context.model.model_type != LATENT:
        message = f"stages are for latent diffusion, and this model is of type {context.model.model_type}"
        yield context.problem(("training", "stages"), message, "leave it out")


def _devices(context: Context) -> Iterator[Problem]:
    """Check that the model is on one device, and that it and the device can do what `training` asks for."""
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
    if training.fp16 and on_cpu:
        message = "fp16 needs a GPU, and the model is on the CPU"
        yield context.problem(("training", "fp16"), message, "bf16: true, which works there")
    if context.model.model_type != LATENT:
        return
    if training.fsdp:
        message = "fsdp shards weights that take part in every step, and stages of a latent model leave some out"
        yield context.problem(("training", "fsdp"), message, "leave it out: DDP fits this model")
    if training.activation_checkpointing != "none":
        message = "the decoder of a latent model reads the latent from a cache, which is gone when a layer is repeated"
        yield context.problem(("training", "activation_checkpointing"), message, "leave it out")


def _device_settings(config: Any, path: Location) -> Iterator[tuple[Location, str]]:
    """Yield every `device` in a config with its path."""
    if isinstance(config, StrictModel):
        for name, field in type(config).model_fields.items():
            value, here = getattr(config, name), (*path, field.alias or name)
            if name == "device" and isinstance(value, str):
                yield here, value
            else:
                yield from _device_settings(value, here)


def _warmup(context: Context) -> Iterator[Problem]:
    """Check that the warm-up is given once."""
    path, training = ("training", "warmup_ratio"), context.training
    if training is not None and training.warmup_ratio is not None and training.warmup_steps:
        message = "warmup_ratio and warmup_steps both give the length of the warm-up"
        yield context.problem(path, message, "leave one of them out, or --set training.warmup_ratio=null")


TRAINING_CHECKS: tuple[Check, ...] = (
    *(
        _names,
        _warmup,
        _named_data,
        _evaluation,
        _rows,
        _documents,
        _task,
        _settings_of_tasks,
        _adapted_layers,
        _speech_task,
        _stages,
        _devices,
    ),
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
    """Note a precision that needs a GPU, on a machine that shows none."""
    training = context.training
    if training is None or glob("/dev/nvidia[0-9]*") or os.path.exists("/dev/kfd"):
        return
    if training.fp16:
        message = "fp16 needs a GPU, and this machine shows none"
        yield context.problem(("training", "fp16"), message, "on a CPU, bf16: true works")


def _length_of_texts(context: Context) -> Iterator[Problem]:
    """Note a text length that the decoder's positions do not reach."""
    generation, path = context.generation, ("generation", "max_new_tokens")
    if context.model is None or generation is None or not context.has(path):
        return
    stack: Any = getattr(context.model.config, "decoder_params", None) or getattr(context.model.config, "params", None)
    longest = getattr(stack, "max_length", None)
    if longest is not None and generation.max_new_tokens > longest:
        message = f"texts end after the {longest:,} tokens that the model can read (max_length)"
        yield context.problem(path, message, f"max_new_tokens: {longest}")


def _absent_logger(context: Context) -> Iterator[Problem]:
    """Note a logger whose package is not installed here."""
    for logger in context.training.loggers if context.training is not None else ():
        if all(find_spec(package) is None for package in LOGGERS[logger]):
            message = f"{logger} is not installed here, and a training would end before its first step"
            yield context.problem(("training", "report_to"), message, f"pip install 'model-factory[{logger}]'")


def find_notes(context: Context) -> list[Problem]:
    """Return remarks on a valid file: settings that this machine cannot follow, or that have no effect."""
    return [note for check in _NOTES for note in check(context)]


_NOTES: tuple[Check, ...] = (_idle_evaluation, _absent_gpu, _absent_logger, _length_of_texts)
