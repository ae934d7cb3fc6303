"""Check the headers of the files that a config names: config.json, config.yml and safetensors headers; no weights are read.

`model_factory.experiment.path_values` reports missing files as notes, since they may be on another machine.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_manager.paths import places_of
from model.model_types import ModelConfig
from model.parse_model_args import parse_model_config
from model_factory.diffusion.registry import OBJECTIVES
from model_factory.experiment.check_context import Check, Context
from model_factory.experiment.cross_checks import FEWEST_TOKENS
from model_factory.experiment.pretrained.section import is_published_place
from model_factory.yaml_config.errors import ConfigError, Problem
from model_factory.yaml_config.paths import expand_home
from model_factory.yaml_config.schema_version import parse_json
from model_factory.yaml_config.strict_model import Location

WEIGHTS = "model.safetensors"
_MAX_HEADER = 100_000_000
_MAX_CONFIG = 1_000_000
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
)
_SHAPE_KEYS = (
    *(
        "d_model",
        "num_layers",
        "d_ff",
        "hidden_size",
        "intermediate_size",
        "vocab_size",
        "input_dim",
        "cond_dim",
        "size",
    ),
    *("width", "num_tokens", "type", "max_length", "num_kv_heads", "local_width", "local_groups"),
)
"""Keys of a model's section that decide the shapes of weights; `max_length` where positions are learned."""
LEARNED_TOKENIZERS = ("characters", "bpe", "smiles")
"""Tokenizers whose vocabulary depends on the text."""
_WITHOUT_PADDING = ("GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast")
"""Classes of tokenizers that have no padding unless it is named; their end token then takes its place."""
_TIED_HEADS = {"lm_head", "decoder"}
"""Heads whose weights may be those of the embedding, and then are not stored again."""
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert")
"""Architectures whose positions begin after the id of padding."""


def _tokenizer_folders(context: Context) -> Iterator[Problem]:
    """Check that the path of a tokenizer is a folder that holds one."""
    for index, entry in enumerate(context.datasets):
        tokenizer = getattr(entry, "tokenizer", None)
        if tokenizer is None or getattr(tokenizer, "path", None) is None:
            continue
        folder = next((place for place in places_of(tokenizer.path, entry) if os.path.exists(place)), None)
        path: Location = ("datasets", index, "tokenizer", "path")
        if folder is not None and not folder.is_dir():
            yield context.problem(path, f"{tokenizer.path!r} is a file", f"path: {folder.parent}, the folder it is in")
        elif folder is not None and not any((folder / name).is_file() for name in _TOKENIZER_FILES):
            message = f"the folder {tokenizer.path!r} holds no tokenizer"
            yield context.problem(path, message, "a folder with tokenizer.json, as save_pretrained writes it")


def _padding_token(context: Context) -> Iterator[Problem]:
    """Check that the padding of a pretrained tokenizer is no end token, for a model that learns where texts end."""
    entry: Any = context.dataset
    tokenizer: Any = getattr(entry, "tokenizer", None)
    objective: Any = getattr(getattr(context.model, "config", None), "objective", None)
    if objective is None or not OBJECTIVES.get(objective.type).variable_length or not getattr(tokenizer, "path", None):
        return
    found: dict[str, Any] = {}
    for folder in [place for place in places_of(tokenizer.path, entry) if os.path.isdir(place)][:1]:
        for name in ("special_tokens_map.json", "tokenizer_config.json"):
            found |= _read_json(folder / name) or {}
    pad, end = (found.get(f"{role}_token") for role in ("pad", "eos"))
    if end is not None and (pad == end or (pad is None and found.get("tokenizer_class") in _WITHOUT_PADDING)):
        message = (
            f"objective {objective.type} learns where a text ends, and the padding of this tokenizer is its end token"
        )
        fix = "a tokenizer with a pad_token of its own in tokenizer_config.json"
        yield context.problem((*context.dataset_path, "tokenizer", "path"), message, fix)


def _tokenizer_runs(context: Context) -> Iterator[Problem]:
    """Check that `tokenizer: {run: ...}` names a folder with the tokenizer of a run."""
    for index, entry in enumerate(context.datasets):
        folder = _run_of_tokenizer(entry)
        if folder is None or not os.path.exists(folder):
            continue
        path: Location = ("datasets", index, "tokenizer", "run")
        if not folder.is_dir():
            yield context.problem(
                path, f"{str(folder)!r} is a file", f"run: {folder.parent}, if it is the run's folder"
            )
        elif not (folder / "tokenizer" / "vocabulary.json").is_file():
            yield context.problem(path, f"the folder {str(folder)!r} has no tokenizer", "the folder of a run on text")


def _run_of_tokenizer(entry: Any) -> Path | None:
    """Return the folder of the run whose tokenizer a data set uses, None if it is of no run or not there."""
    named = getattr(getattr(entry, "tokenizer", None), "run", None)
    return None if named is None else next((place for place in places_of(named, entry) if os.path.exists(place)), None)


def _starting_weights(context: Context) -> Iterator[Problem]:
    """Check that `init_from` is a folder with weights of this model, written with this tokenizer."""
    training, model = context.training, context.model
    if not context.will_train or training is None or training.init_from is None:
        return
    path: Location = ("training", "init_from")
    folder = expand_home(training.init_from)
    if not os.path.exists(folder) or is_published_place(training.init_from):
        return
    if not folder.is_dir():
        yield context.problem(path, f"{training.init_from!r} is a file", "give the folder of a run")
        return
    weights = folder / WEIGHTS
    if not weights.is_file():
        yield context.problem(path, f"{folder} has no {WEIGHTS}", "give the folder of a finished run")
        return
    if read_shapes(weights) is None:
        yield context.problem(path, f"{weights} is no safetensors file, or is cut short", "copy it again")
        return
    theirs = _read_run(folder)
    if model is not None and theirs is not None:
        differing = list(_differing_shapes(theirs, model))
        if differing:
            message = f"{folder} holds weights of another model: {'; '.join(differing)}"
            yield context.problem(path, message, "give the model the same shape, or leave init_from out")
            return
    yield from _starting_tokenizer(context, folder)


def _starting_tokenizer(context: Context, folder: Path) -> Iterator[Problem]:
    """Check that a run's tokenizer is of the type of the data set's, or equal to it if that is of a run, too."""
    tokenizer: Any = getattr(context.dataset, "tokenizer", None)
    if tokenizer is None:
        return
    vocabulary = _read_json(folder / "tokenizer" / "vocabulary.json")
    kind = vocabulary.get("type") if vocabulary else None
    fix = "tokenizer: {type: bytes}" if kind == "bytes" else f"tokenizer: {{run: {folder}}}"
    if tokenizer.type == "run":
        other = _run_of_tokenizer(context.dataset)
        theirs = _read_json(other / "tokenizer" / "vocabulary.json") if other is not None else None
        if theirs and vocabulary and theirs != vocabulary:
            message = f"{folder} was trained with another tokenizer than that of {other}"
            yield context.problem(("training", "init_from"), message, fix)
        return
    if isinstance(kind, str) and kind != tokenizer.type and {kind, tokenizer.type} & {"bytes", "characters"}:
        message = f"{folder} was trained with a tokenizer of {kind}, and this data set's is of {tokenizer.type}"
        yield context.problem(("training", "init_from"), message, fix)


def _read_run(folder: Path) -> ModelConfig | None:
    """Return the model of a run folder's config.yml; None if it is missing or invalid."""
    file = folder / "config.yml"
    if not file.is_file():
        return None
    try:
        return parse_model_config(file)
    except ConfigError:
        return None


def _differing_shapes(theirs: ModelConfig, ours: ModelConfig) -> Iterator[str]:
    """Yield each setting that decides shapes of weights and differs between two models; None fits anything."""
    if theirs.model_type != ours.model_type:
        yield f"it is of type {theirs.model_type}, and this one of type {ours.model_type}"
        return
    left, right = (dict(_flat(model.to_section(), "")) for model in (theirs, ours))
    for key, value in left.items():
        name, other = key.rpartition(".")[2], right.get(key)
        part = key.rpartition(".")[0]
        if name == "local_width" and value is not None and other is None:
            yield f"its {key} is {value}, and this one has none"
        if name not in _SHAPE_KEYS or value is None or other is None or part.startswith(("objective", "schedule")):
            continue
        if name == "max_length" and right.get(f"{part}.position") != "absolute":
            continue
        if value != other:
            yield f"its {key} is {value}, and this one's {other}"


def _flat(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else key)
    elif not isinstance(value, list):
        yield prefix, value


def _pretrained_backbone(context: Context) -> Iterator[Problem]:
    """Check that a pretrained backbone has the vocabulary and the positions that the file asks for."""
    model = context.model
    backbone: Any = getattr(model.config, "backbone", None) if model else None
    name = getattr(backbone, "path", None)
    if model is None or backbone is None or backbone.type != "hugging_face" or name is None:
        return
    config = _read_json(expand_home(name) / "config.json")
    if config is None:
        return
    section: Any = model.config
    yield from _pretrained_vocabulary(context, section, name, config.get("vocab_size"))
    places = config.get("max_position_embeddings")
    length = section.sequence_length or getattr(context.dataset, "limit", None)
    if isinstance(places, int) and config.get("model_type") in _OFFSET_POSITIONS:
        places -= (config.get("pad_token_id") or 0) + 1
    if isinstance(places, int) and length is not None and length > places:
        message = f"{name} has {places} positions, and sequences have up to {length} tokens"
        yield context.problem(("model", "backbone", "path"), message, f"sequence_length: {places}")


def _pretrained_vocabulary(context: Context, section: Any, name: str, tokens: object) -> Iterator[Problem]:
    """Check that the vocabulary of a pretrained backbone is that of the file, or of the data set's tokenizer."""
    tokenizer: Any = getattr(context.dataset, "tokenizer", None)
    if not isinstance(tokens, int) or section.vocab_size == tokens:
        return
    given: object = section.vocab_size
    if given is None and tokenizer is not None and tokenizer.type == "bytes":
        given = FEWEST_TOKENS["bytes"]
    elif given is None and getattr(tokenizer, "type", None) in LEARNED_TOKENIZERS:
        given = f"a tokenizer of {tokenizer.type}, which takes its tokens from the text"
    if given is not None and given != tokens:
        message = f"{name} has a vocabulary of {tokens} tokens, and the file gives {given}"
        fix = f"tokenizer: {{type: hugging_face, path: {name}}}, or vocab_size: {tokens}"
        yield context.problem(("model", "backbone", "path"), message, fix)


def _adapted_pretrained_layers(context: Context) -> Iterator[Problem]:
    """Check that the layers which LoRA is to adapt are among the weights of a pretrained backbone, or of an imported run's."""
    training = context.training
    lora = training.lora if context.trains and training else None
    backbone: Any = getattr(context.model.config, "backbone", None) if context.model else None
    if training is None or lora is None or backbone is None or backbone.type != "hugging_face":
        return
    place = backbone.path or training.init_from  # a backbone with `architecture` has its weights in a run
    shapes = None if place is None else read_shapes(expand_home(place) / WEIGHTS)
    if shapes is None:
        return
    layers = {key.split(".")[-2] for key, shape in shapes.items() if key.endswith(".weight") and len(shape) == 2}
    known = {name for name in layers if "embed" not in name and name not in ("wte", "wpe")}
    for index, name in enumerate(lora.target_modules or ()):
        if name not in known | _TIED_HEADS:
            message = f"no linear layer of {place} is called {name}; it has {', '.join(sorted(known))}"
            yield context.unknown(("training", "lora", "target_modules", index), message, name, sorted(known))


def _pretrained_parts(context: Context) -> Iterator[Problem]:
    """Check that pretrained parts of a latent model come with the tokenizers that they need."""
    model, tokenizer = context.model, getattr(context.dataset, "tokenizer", None)
    if model is None or model.model_type != "latent_diffusion":
        return
    encoder, decoder = (getattr(getattr(model.config, name), "path", None) for name in ("encoder", "decoder"))
    if decoder is not None and tokenizer is not None and tokenizer.type != "hugging_face":
        message = f"decoder {decoder} writes by its own tokenizer, and the data set's is of {tokenizer.type}"
        fix = f"tokenizer: {{type: hugging_face, path: {decoder}}}"
        yield context.problem(("model", "decoder", "path"), message, fix)
    if context.trains and encoder is not None:
        folder = expand_home(encoder)
        if folder.is_dir() and not any((folder / name).is_file() for name in _TOKENIZER_FILES):
            message = f"encoder {encoder} has no tokenizer beside its weights"
            yield context.problem(("model", "encoder", "path"), message, "save its tokenizer into the folder")


def read_shapes(path: Path) -> dict[str, list[int]] | None:
    """Return the shapes of a safetensors file by name, from its header; None for a file of another or broken format."""
    try:
        with path.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            if size > _MAX_HEADER:
                return None
            header = json.loads(stream.read(size))
            length = os.fstat(stream.fileno()).st_size - 8 - size
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        if any(entry["data_offsets"][1] > length for entry in tensors.values()):
            return None
        return {name: list(entry["shape"]) for name, entry in tensors.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _read_json(path: Path) -> Mapping[str, Any] | None:
    """Return the mapping of a small JSON file; None if it is missing or invalid."""
    try:
        if not path.is_file() or path.stat().st_size > _MAX_CONFIG:
            return None
        found = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


CHECKS: tuple[Check, ...] = (
    *(
        _tokenizer_folders,
        _padding_token,
        _tokenizer_runs,
        _starting_weights,
        _pretrained_backbone,
        _adapted_pretrained_layers,
        _pretrained_parts,
    ),
)
