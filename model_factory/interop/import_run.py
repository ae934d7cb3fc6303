"""Import of published diffusion models: a folder, a checkpoint or a name on the hub becomes a run folder.

RUN/config.yml, RUN/model.safetensors and RUN/tokenizer/ are those of any run, so all verbs work on it, also after the
source is gone. RUN/imported.json tells where the weights are from.
"""

import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

from model.checkpoint import write_one_by_one
from model.checkpoints.network import Network, vocabulary_of
from model.checkpoints.pickles import list_inert_names
from model.checkpoints.published import Options, OwnTensors, Published, read_published
from model.checkpoints.source import find_source
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

_FREE = ("model.name", *(f"model.{part}.{key}" for part in ("backbone", "decoder") for key in ("device", "dropout")))
"""Keys of the model that do not change what its weights mean."""
_TASKS = {"diffusion": "diffusion", "decoder": "language_modelling"}
"""Task of each model type that is imported."""


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
    options = Options(request.mask_id, request.family, request.allow_pickle, request.use_average)
    own = cache(partial(find_tokenizer, request.tokenizer, source))
    read = read_published(source, options, lambda: mask_token_of(own()))
    tokenizer = own()
    if tokenizer is not None:
        tokenizer = without_tokens_beyond(tokenizer, vocabulary_of(read.network.section))
    config = _experiment(read.network, request.overrides)
    found = Import(run.path, tuple(_describe(read, tokenizer)), tuple(_notes(read, tokenizer)))
    _write(run, config, read.tensors, tokenizer, _origin(read, found))
    return found


def _experiment(network: Network, overrides: tuple[str, ...]) -> ExperimentConfig:
    """Return the experiment of the run, with overrides of other sections than the model's sizes.

    Raises UnfitError for an override of the model, ConfigError for an invalid one.
    """
    for option in overrides:
        key = option.partition("=")[0].strip()
        if key.split(".")[0] == "model" and key not in _FREE:
            raise UnfitError(f"--set {option}: the model is that of the weights; only {' and '.join(_FREE)} can be set")
    task = _TASKS[network.section["model_type"]]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yml"
        file.write_text(dump({"model": network.section, "training": {"task": task}}), encoding="utf-8")
        return read_experiment(file, overrides, will_train=False).config


# Summary of what was understood, for the user.


def _describe(read: Published, tokenizer: "Tokenizer | None") -> Iterator[tuple[str, str]]:
    source, weights, network = read.source, read.weights, read.network
    yield from network.facts
    parameters = sum(math.prod(weights[name].shape) for name in network.order)
    dtypes = sorted({str(weights[name].dtype).removeprefix("torch.") for name in network.order})
    yield "parameters", f"{parameters:,} in {' and '.join(dtypes)}"
    yield "weights", read.average or "as in the file; it has no moving average beside them"
    yield "tokenizer", "none" if tokenizer is None else f"{tokenizer.vocab_size:,} tokens"
    yield "licence", source.licence or "not stated in README.md"
    yield "revision", source.revision or "none (a folder)"


def _notes(read: Published, tokenizer: "Tokenizer | None") -> Iterator[str]:
    source, weights = read.source, read.weights
    yield from read.network.notes
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
    tensors: OwnTensors,
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
            write_one_by_one(run.weights, tensors.kinds, tensors.__getitem__)
        except BaseException:
            for path in (run.config, run.imported, run.weights):
                path.unlink(missing_ok=True)
            rmtree(run.tokenizer, ignore_errors=True)
            raise


def _origin(read: Published, found: Import) -> dict[str, Any]:
    source, weights = read.source, read.weights
    files = [*weights.files, *([source.config_file] if source.config_file else [])]
    origin: dict[str, Any] = {
        "from": source.name,
        "revision": source.revision,
        "family": read.network.family,
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
