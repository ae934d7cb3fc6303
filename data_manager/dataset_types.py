"""Types of the `global_config` section and of the entries of `datasets`, one a source; nothing heavy is imported.

Whether a file exists is not looked at here: a config may be checked on one machine and run on another.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from data_manager.recipe_checks import unknown_corpus
from data_manager.registry import SOURCES
from data_manager.speech_settings import FeaturesConfig, LoadingConfig
from yaml_config.paths import PathText
from yaml_config.registry import closest
from yaml_config.strict_model import StrictModel, Violation

_FILE_ENDINGS = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".parquet", ".arrow", ".py", ".gz", ".zip")


def not_empty(value: Any) -> Any:
    """`value`, where it is not empty; for types of other files too."""
    if not value:
        raise ValueError("must not be empty")
    return value


def _folder_name(value: str) -> str:
    """A data set's name is a folder's name below corpus_dir and output_dir."""
    if value in ("", ".", "..") or any(character in value for character in "/\\\0") or value != value.strip():
        raise ValueError("must be a plain name, as it names a folder; paths go into data_files or global_config")
    return value


def _hub_name(value: str) -> str:
    """A name on the hub, `name` or `owner/name`, which no path is taken for."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", value) or value.endswith(_FILE_ENDINGS):
        raise ValueError("must be a name on the hub, such as gpt2 or owner/name, and no path")
    return value


HubName = Annotated[str, AfterValidator(_hub_name)]
NotEmpty = Annotated[str, AfterValidator(not_empty)]


class GlobalConfig(StrictModel):
    """Where corpora lie and where what is made from them goes; shared by all entries of `datasets`."""

    corpus_dir: PathText = "./data"
    """Folder of the corpora, each in a folder of its own name."""
    output_dir: PathText = "./manifests"
    """Folder for what is prepared from them, in a folder a data set."""
    force_download: bool = False
    """Download a corpus again although it is there."""
    num_proc: Annotated[int, Field(ge=1, le=1024)] = 1
    """Processes that tokenise text; what comes out does not depend on it. [processes]"""
    features: FeaturesConfig | None = None
    """Defaults for the `features` of every speech corpus; an entry's own value wins."""
    loading: LoadingConfig | None = None
    """Defaults for the `loading` of every speech corpus; an entry's own value wins."""


class DatasetConfig(StrictModel):
    """One entry of `datasets`. With `source: lhotse`, the default, `name` alone is enough."""

    name: Annotated[str, AfterValidator(_folder_name)]
    """Name of the corpus, and of its folders below corpus_dir and output_dir."""
    source: str = "lhotse"
    """What loads it: lhotse (speech corpora), text, json, csv, parquet or smiles (files), disk or hub (of `datasets`),
    mixture (of other entries), embedded (Python's documentation)."""
    global_config: GlobalConfig = GlobalConfig()
    """Folders; in a file they stand in the section `global_config`."""

    def violations(self) -> Iterator[Violation]:
        """A lhotse corpus has a recipe; the type of another source yields its own."""
        if self.source == "lhotse":
            yield from unknown_corpus(self.name)
        elif type(self) is DatasetConfig and self.source not in SOURCES:
            near = closest(self.source, SOURCES.names())
            hint = f"did you mean {near!r}?" if near else f"known: {', '.join(SOURCES)}"
            yield Violation(f"unknown data source {self.source!r}", ("source",), suggestion=hint)


class TokenizerConfig(StrictModel):
    """How text becomes token ids."""

    type: Literal["characters", "bytes", "hugging_face", "bpe", "smiles"] = "characters"
    """characters (those of the train split), bytes (of UTF-8, 259 ids), hugging_face (one that is there), bpe (byte
    pairs, learnt from the train split) or smiles (atoms, bonds, rings and branches of molecules)."""
    path: PathText | None = None
    """Folder of a Hugging Face tokenizer: tokenizer.json, or vocab.json and merges.txt."""
    name: HubName | None = None
    """Name of a Hugging Face tokenizer on the hub, say `gpt2` or `google/byt5-small`."""
    revision: NotEmpty | None = None
    """Branch, tag or commit of the tokenizer on the hub."""
    vocab_size: Annotated[int, Field(ge=260, le=1_000_000)] | None = None
    """Tokens of a bpe tokenizer, the 256 bytes and four special ones among them; fewer where the text has no more. Of a
    smiles tokenizer: what often stands together becomes one token, up to so many; left out, each atom
    is one. [tokens]"""

    def violations(self) -> Iterator[Violation]:
        """Only hugging_face is found by a path or a name, only what joins tokens has a vocab_size; each needs its own."""
        if self.type == "hugging_face" and self.path is None and self.name is None:
            yield Violation(
                "type hugging_face needs path, the tokenizer's folder, or name, its name on the hub",
                ("path",),
                (("type",),),
            )
        if self.type == "bpe" and self.vocab_size is None:
            yield Violation(
                "type bpe needs vocab_size", ("vocab_size",), (("type",),), "vocab_size: 8000", "missing_key"
            )
        if self.path is not None and self.name is not None:
            yield Violation("path and name are two tokenizers", ("name",), (("path",),), "leave one of them out")
        if self.revision is not None and self.name is None:
            yield Violation("revision is that of a name on the hub", ("revision",), (("path",),), "leave it out")
        for key, owner in (("path", "hugging_face"), ("name", "hugging_face"), ("vocab_size", "bpe")):
            fits = self.type == owner or (key == "vocab_size" and self.type == "smiles")
            if getattr(self, key) is not None and not fits:
                message = f"a tokenizer of {self.type} has no {key}"
                yield Violation(message, (key,), (("type",),), f"leave it out, or type: {owner}")
