"""Base config types of `global_config`, of the entries of `datasets` and of `tokenizer`; nothing heavy is imported.

The existence of files is not checked here: a config may be checked on one machine and run on another.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from data_manager.registry import SOURCES
from data_manager.speech.recipes import check_corpus_name
from data_manager.speech_settings import FeaturesConfig, LoadingConfig
from model_factory.yaml_config.paths import PathText
from model_factory.yaml_config.registry import closest
from model_factory.yaml_config.strict_model import StrictModel, Violation

_FILE_ENDINGS = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".parquet", ".arrow", ".py", ".gz", ".zip")


def not_empty(value: Any) -> Any:
    """Return `value` if it is not empty; raise ValueError otherwise."""
    if not value:
        raise ValueError("must not be empty")
    return value


def _folder_name(value: str) -> str:
    """Validate the name of a data set, which is also the name of its folders below corpus_dir and output_dir."""
    if value in ("", ".", "..") or any(character in value for character in "/\\\0") or value != value.strip():
        raise ValueError("must be a plain name, as it names a folder; put paths into data_files or global_config")
    return value


def _hub_name(value: str) -> str:
    """Validate a name on the hub, `name` or `owner/name`; reject paths."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", value) or value.endswith(_FILE_ENDINGS):
        raise ValueError("must be a name on the hub, such as gpt2 or owner/name, not a path")
    return value


HubName = Annotated[str, AfterValidator(_hub_name)]
NotEmpty = Annotated[str, AfterValidator(not_empty)]


class GlobalConfig(StrictModel):
    """Folders of corpora and of prepared data; shared by all entries of `datasets`."""

    corpus_dir: PathText = "./data"
    """Folder of the corpora, each in a subfolder of its name."""
    output_dir: PathText = "./manifests"
    """Folder of prepared data, one subfolder for each data set."""
    force_download: bool = False
    """Download a corpus again even if it exists."""
    num_proc: Annotated[int, Field(ge=1, le=1024)] = 1
    """Processes that tokenise text; the result does not depend on it. [processes]"""
    features: FeaturesConfig | None = None
    """Defaults for the `features` of every speech corpus; an entry's own value wins."""
    loading: LoadingConfig | None = None
    """Defaults for the `loading` of every speech corpus; an entry's own value wins."""


class DatasetConfig(StrictModel):
    """One entry of `datasets`. With `source: lhotse`, the default, `name` alone is enough."""

    name: Annotated[str, AfterValidator(_folder_name)]
    """Name of the corpus, and of its folders below corpus_dir and output_dir."""
    source: str = "lhotse"
    """Data source: lhotse (speech corpora), cuts, kaldi, audio_table or rttm (speech in your own files), speech_mixture, text,
    json, csv, parquet or smiles (files), disk or hub (of `datasets`), mixture (of other entries), embedded (Python's
    documentation)."""
    global_config: GlobalConfig = GlobalConfig()
    """Folders and shared defaults; in a file, the section `global_config`."""

    def violations(self) -> Iterator[Violation]:
        """Check that a lhotse corpus has a recipe, and that the source is registered."""
        if self.source == "lhotse":
            yield from check_corpus_name(self.name)
        elif type(self) is DatasetConfig and self.source not in SOURCES:
            near = closest(self.source, SOURCES.names())
            hint = f"did you mean {near!r}?" if near else f"known: {', '.join(SOURCES)}"
            yield Violation(f"unknown data source {self.source!r}", ("source",), suggestion=hint)


_OWNERS = (
    ("path", "hugging_face"),
    ("name", "hugging_face"),
    ("vocab_size", "bpe"),
    ("parse_special_tokens", "hugging_face"),
    ("run", "run"),
)
"""Keys of a tokenizer that only one type has."""


class TokenizerConfig(StrictModel):
    """Settings of a built-in tokenizer, by its `type`."""

    type: Literal["characters", "bytes", "hugging_face", "bpe", "smiles", "run"] = "characters"
    """characters (those of the train split), bytes (of UTF-8, 259 ids), hugging_face (a pretrained one), bpe (byte
    pairs, learned from the train split), smiles (atoms, bonds, rings and branches of molecules) or run (that of a run;
    the default with the key run)."""
    run: PathText | None = None
    """Folder of a run, whose tokenizer is used: `tokenizer: {run: runs/x}`, to fine-tune its model on other text."""
    path: PathText | None = None
    """Folder of a Hugging Face tokenizer: tokenizer.json, or vocab.json and merges.txt."""
    name: HubName | None = None
    """Name of a Hugging Face tokenizer on the hub, such as `gpt2` or `google/byt5-small`."""
    revision: NotEmpty | None = None
    """Branch, tag or commit of the tokenizer on the hub."""
    vocab_size: Annotated[int, Field(ge=260, le=1_000_000)] | None = None
    """Vocabulary size of a bpe tokenizer, including the 256 bytes and four special tokens; smaller if the text is too
    short for more merges. For a smiles tokenizer: merge frequent neighbours into single tokens, up to this size; by
    default each atom is one token. [tokens]"""
    parse_special_tokens: bool = False
    """Read names of special tokens in texts and prompts, such as `<|endoftext|>` or `[MASK]`, as these tokens (of
    hugging_face). By default they are text like any other."""

    @model_validator(mode="before")
    @classmethod
    def _of_a_run(cls, values: Any) -> Any:
        """Set the type of a mapping that names a run and no type."""
        return {"type": "run", **values} if isinstance(values, dict) and values.get("run") is not None else values

    def violations(self) -> Iterator[Violation]:
        """Check that path and name belong to hugging_face, vocab_size to bpe or smiles, and that required keys are set."""
        if self.type == "run" and self.run is None:
            message = "type run needs run, the folder of the run"
            yield Violation(message, ("run",), (("type",),), "run: runs/x", "missing_key")
        if self.type == "hugging_face" and self.path is None and self.name is None:
            yield Violation(
                "type hugging_face needs path, the tokenizer's folder, or name, its name on the hub",
                ("path",),
                (("type",), ("name",)),
            )
        if self.type == "bpe" and self.vocab_size is None:
            yield Violation(
                "type bpe needs vocab_size", ("vocab_size",), (("type",),), "vocab_size: 8000", "missing_key"
            )
        if self.path is not None and self.name is not None:
            yield Violation("path and name are two tokenizers", ("name",), (("path",),), "remove one of them")
        if self.revision is not None and self.name is None:
            yield Violation(
                "revision needs name, a tokenizer on the hub", ("revision",), (("path",), ("name",)), "remove it"
            )
        for key, owner in _OWNERS:
            fits = self.type == owner or (key == "vocab_size" and self.type == "smiles")
            if getattr(self, key) and not fits:
                message = f"a tokenizer of {self.type} has no {key}"
                yield Violation(message, (key,), (("type",),), f"remove it, or type: {owner}")
