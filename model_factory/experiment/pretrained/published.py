"""Published model as a starting point: its settings while a file is checked, its tensors where training begins.

The hub's cache holds the files: no copy of the weights is written. A name is resolved to its commit once.
"""

import logging
from dataclasses import dataclass
from typing import Any

from data_manager.errors import DataError
from data_manager.tokenizers.hugging_face import TOKENIZER_FILES, HuggingFaceTokenizer
from model.checkpoints.errors import PublishedError
from model.checkpoints.published import Options, OwnTensors, read_published
from model.checkpoints.source import Source, find_source

_noted: set[str] = set()


@dataclass(frozen=True)
class Pretrained:
    """A published model: the section `model` that builds it, its tensors under our names, and its place.

    `place` is the folder, or `owner/name@COMMIT`.
    """

    section: dict[str, Any]
    tensors: OwnTensors
    place: str


def read_pretrained(name: str, where: str | None = None) -> Pretrained:
    """Read a published model from a folder or from the hub, `owner/name[@revision]`; no numbers are read.

    A name without a commit is noted once, with the line `where` of the file. Raises PublishedError.
    """
    source = find_source(name)
    found = read_published(source, Options(), lambda: _find_mask(source))
    place = name
    if source.revision is not None:
        place = f"{name.partition('@')[0]}@{source.revision}"
        if not source.is_pinned and where is not None and place not in _noted:
            _noted.add(place)
            logging.getLogger(__name__).warning(
                "note: %s: %s has no commit, and this is the newest now; pin it: revision: %s",
                *(where, name, source.revision),
            )
    return Pretrained(found.network.section, found.tensors, place)


def _find_mask(source: Source) -> int | None:
    """Return the mask token of the tokenizer that the source has; None without one."""
    if not any((source.folder / file).is_file() for file in TOKENIZER_FILES):
        return None
    try:
        found: int | None = HuggingFaceTokenizer.load(source.folder).inner.mask_token_id
    except DataError as error:
        raise PublishedError(
            f"{source.name}: its tokenizer, which may name the mask, cannot be read: {error}"
        ) from error
    return found
