"""Import of published diffusion models: a folder, a checkpoint or a name on the hub becomes a run folder.

RUN/config.yml, RUN/model.safetensors and RUN/tokenizer/ are those of any run, so all verbs work on it, also after the
source is gone. RUN/imported.json tells where the weights are from.
"""

import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from model.checkpoint import write_one_by_one
from model.checkpoints.ddit_family import read_network
from model.checkpoints.ddit_settings import Stated, merge, read_settings
from model.checkpoints.errors import PublishedError
from model.checkpoints.language_families import is_adapted, language_family
from model.checkpoints.language_models import read_language_model
from model.checkpoints.network import Network, Part
from model.checkpoints.pickles import StoredTensor, list_inert_names, plain_values
from model.checkpoints.source import Source, find_source
from model.checkpoints.weights import Weights, check_place, is_finite, open_weights
from model_factory.experiment.config import ExperimentConfig, read_experiment
from model_factory.interop.tokenizer import find_tokenizer, mask_token_of, without_tokens_beyond
from model_factory.training.errors import FolderInUseError, UnfitError
from model_factory.training.run.atomic_io import explain_write_errors, write_text
from model_factory.training.run.environment import package_version
from model_factory.training.run.folder import RunFolder
from model_factory.yaml_config.dump import dump
from model_factory.yaml_config.schema_version import add_version

if TYPE_CHECKING:
    from data_manager.tokenizers.base import Tokenizer

_FREE = ("model.name", "model.backbone.device", "model.backbone.dropout")
"""Keys of the model that do not change what its weights mean."""


@dataclass(frozen=True)
class Request:
    """Source, output and options of an import: see the options of `model-factory import`."""

    source: str
    output: Path
    tokenizer: str | None = None
    mask_id: int | None = None
    settings: str | None = None
    family: str | None = None
    allow_pickle: bool = False
    use_average: bool = True
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Import:
    """An imported run: its folder, what was understood of the source (pairs of a name and a text), and notes."""

    folder: Path
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def import_run(request: Request) -> Import:
    """Write the run folder of a published model, its weights last.

    Raises PublishedError for a source that cannot be read or does not fit its config, DataError for a tokenizer,
    FolderInUseError for an output that is not empty, WriteError where it cannot be written.
    """
    run = RunFolder(request.output)
    if not run.is_empty:
        raise FolderInUseError(f"{run} is not empty; give a folder that is not there yet")
    source = find_source(request.source, settings=request.settings, allow_pickle=request.allow_pickle)
    where = str(source.place)
    check_place(source.place)
    family = language_family(source.config, request.family)
    if family is None and not is_adapted(source.config):
        _read_stated(source, None, request.family)  # an error before the weights are opened, which may be large
    weights = open_weights(source.place, allow_pickle=request.allow_pickle)
    family = language_family(source.config, request.family, weights)
    tokenizer = find_tokenizer(request.tokenizer, source)
    if family is not None:
        named = tokenizer if source.config.get("mask_token_id") is None else None
        network = read_language_model(weights, source.config, where, _find_mask(request.mask_id, named), family)
    else:
        stated = _read_stated(source, weights, request.family)
        mask = _find_mask(request.mask_id, tokenizer if stated.family in ("mdlm", "bd3lm") else None)
        network = read_network(weights, stated, where, mask)
    if tokenizer is not None:
        tokenizer = without_tokens_beyond(tokenizer, network.section["vocab_size"])
    config = _experiment(network, request.overrides)
    averaged, average = _find_average(weights, network, where, request.use_average)
    found = Import(
        run.path,
        tuple(_describe(source, weights, network, average, tokenizer)),
        tuple(_notes(source, weights, network, tokenizer)),
    )
    _write(run, config, _OwnTensors(weights, network, averaged), tokenizer, _origin(source, weights, network, found))
    return found


def _find_mask(given: int | None, tokenizer: "Tokenizer | None") -> int | None:
    """Return the mask that the user gave, else that of the tokenizer; None without either."""
    return given if given is not None or tokenizer is None else mask_token_of(tokenizer)


def _experiment(network: Network, overrides: tuple[str, ...]) -> ExperimentConfig:
    """Return the experiment of the run, with overrides of other sections than the model's sizes.

    Raises UnfitError for an override of the model, ConfigError for an invalid one.
    """
    for option in overrides:
        key = option.partition("=")[0].strip()
        if key.split(".")[0] == "model" and key not in _FREE:
            raise UnfitError(f"--set {option}: the model is that of the weights; only {' and '.join(_FREE)} can be set")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yml"
        file.write_text(dump({"model": network.section, "training": {"task": "diffusion"}}), encoding="utf-8")
        return read_experiment(file, overrides, will_train=False).config


def _read_stated(source: Source, weights: Weights | None, family: str | None) -> Stated:
    """Return what the config file states, and the config inside a Lightning checkpoint."""
    where = str(source.config_file or source.place)
    inside: Any = None
    if weights is not None and isinstance(weights.content, dict):
        parameters = plain_values(weights.content.get("hyper_parameters"))
        inside = parameters.get("config") if isinstance(parameters, dict) else None
    if not isinstance(inside, dict) or not isinstance(inside.get("model"), dict):
        if weights is None and not source.config and source.place.is_file():
            return Stated(family or "")  # its config may be inside
        return read_settings(source.config, where, family)
    if not source.config:
        return read_settings(inside, f"config in {source.place}", family)
    first = read_settings(source.config, where, family)
    return merge(first, read_settings(inside, f"config in {source.place}", first.family), str(source.place))


def _find_average(
    weights: Weights, network: Network, where: str, use_average: bool
) -> tuple[dict[str, StoredTensor], str | None]:
    """Return the moving average of their tensors by name, empty without one, and its description.

    An average is a list without names, in the order of the parameters: its length and every shape must be theirs.
    """
    average = weights.content.get("ema") if isinstance(weights.content, dict) else None
    listed = average.get("shadow_params") if isinstance(average, dict) else None
    averaged: dict[str, StoredTensor] = {}
    origin = None
    if use_average and isinstance(average, dict):
        if not isinstance(listed, list) or not all(isinstance(item, StoredTensor) for item in listed):
            raise PublishedError(f"{where}: its moving average (ema) has no list shadow_params of tensors")
        if len(listed) != len(network.order):
            raise PublishedError(
                f"{where}: its moving average has {len(listed)} tensors, and the network {len(network.order)} parameters; "
                "they go by their order, so neither is used; import the raw weights with --no-ema"
            )
        for name, item in zip(network.order, listed, strict=True):
            if item.shape != weights[name].shape:
                raise PublishedError(
                    f"{where}: the moving average of {name} is {list(item.shape)} instead of {list(weights[name].shape)}; "
                    "import the raw weights with --no-ema"
                )
            averaged[name] = item
        origin = f"moving average (decay {average.get('decay')}, {average.get('num_updates')} updates), by order"
    elif isinstance(average, dict):
        origin = "raw weights; the moving average was left out (--no-ema)"
    return averaged, origin


class _OwnTensors:
    """Tensors under our names, each read when it is asked for; those of the moving average where there is one.

    Where the trained tensors have several dtypes, all are float32. Raises PublishedError for NaN and infinite values.
    """

    def __init__(self, weights: Weights, network: Network, averaged: Mapping[str, StoredTensor]) -> None:
        self._weights, self._parts, self._averaged = weights, network.tensors, averaged
        self._is_mixed = len({weights[name].dtype for name in network.order}) > 1

    @property
    def kinds(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Dtype and shape of each tensor, of which nothing is read."""
        return {name: self._kind(part) for name, part in self._parts.items()}

    def read(self, name: str) -> Tensor:
        """Read a tensor, of any shape."""
        return self._parts[name].make(self._read)

    def _kind(self, part: Part) -> tuple[torch.dtype, tuple[int, ...]]:
        first = part.names[0]
        dtype = self._averaged[first].dtype if first in self._averaged else self._weights[first].dtype
        return torch.float32 if self._is_mixed else dtype, part.shape(lambda name: self._weights[name].shape)

    def _read(self, name: str) -> Tensor:
        average = self._averaged.get(name)
        tensor = self._weights.read(name) if average is None else average.read()
        if average is not None and not is_finite(tensor):
            raise PublishedError(f"the moving average of {name} has values that are NaN or infinite")
        return tensor.float() if self._is_mixed else tensor


# Summary of what was understood, for the user.


def _describe(
    source: Source, weights: Weights, network: Network, average: str | None, tokenizer: "Tokenizer | None"
) -> Iterator[tuple[str, str]]:
    yield from network.facts
    parameters = sum(math.prod(weights[name].shape) for name in network.order)
    dtypes = sorted({str(weights[name].dtype).removeprefix("torch.") for name in network.order})
    yield "parameters", f"{parameters:,} in {' and '.join(dtypes)}"
    yield "weights", average or "as in the file; it has no moving average beside them"
    yield "tokenizer", "none" if tokenizer is None else f"{tokenizer.vocab_size:,} tokens"
    yield "licence", source.licence or "not stated in README.md"
    yield "revision", source.revision or "none (a folder)"


def _notes(source: Source, weights: Weights, network: Network, tokenizer: "Tokenizer | None") -> Iterator[str]:
    yield from network.notes
    if tokenizer is None:
        yield (
            "there is no tokenizer: load_run(RUN).model samples and scores token ids in Python; for text, import again with "
            "--tokenizer FOLDER or --tokenizer NAME (gpt2 for models of OpenWebText)"
        )
    if source.revision is not None and not source.is_pinned:
        yield f"{source.name} has no commit; pin it: {source.name.partition('@')[0]}@{source.revision}"
    inert = list_inert_names(weights.content) if weights.content is not None else []
    if inert:
        yield f"the pickle names {', '.join(inert[:5])}{' ...' if len(inert) > 5 else ''}; nothing of it was imported or run"


def _write(
    run: RunFolder,
    config: ExperimentConfig,
    tensors: _OwnTensors,
    tokenizer: "Tokenizer | None",
    origin: dict[str, Any],
) -> None:
    """Write the run folder, or nothing; raise WriteError where it cannot be written, PublishedError for NaN weights."""
    with run.locked(), explain_write_errors("the imported run", run.path):
        try:
            run.write_config(config)
            if tokenizer is not None:
                tokenizer.save(run.tokenizer)
            write_text(run.imported, json.dumps(origin, indent=1) + "\n")
            write_one_by_one(run.weights, tensors.kinds, tensors.read)
        except BaseException:
            for path in (run.config, run.imported, run.weights):
                path.unlink(missing_ok=True)
            rmtree(run.tokenizer, ignore_errors=True)
            raise


def _origin(source: Source, weights: Weights, network: Network, found: Import) -> dict[str, Any]:
    files = [*weights.files, *([source.config_file] if source.config_file else [])]
    origin: dict[str, Any] = {
        "from": source.name,
        "revision": source.revision,
        "family": network.family,
        "licence": source.licence,
        "reader": f"model-factory {package_version('model-factory') or '(not installed)'}",
        "sha256": {path.name: _hash(path) for path in files},
        "understood": dict(found.facts),
        "notes": list(found.notes),
    }
    return add_version(origin)


def _hash(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
