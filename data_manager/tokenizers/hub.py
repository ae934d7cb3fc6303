"""TODO data_manager/tokenizers/hub.py."""

from pathlib import Path
from typing import TYPE_CHECKING

from data_manager.errors import DataError
from data_manager.text.hub import _cached_files, from_hub, reason_offline

if TYPE_CHECKING:
    from data_manager.tokenizers.hugging_face import HuggingFaceTokenizer


def hub_tokenizer(name: str, revision: str | None) -> "HuggingFaceTokenizer":
    """Load a tokenizer by its name on the hub; raise DataError, offline within two seconds."""
    from data_manager.tokenizers.hugging_face import HuggingFaceTokenizer

    if Path(name).exists():
        raise DataError(
            f"tokenizer {name!r}: a folder of that name exists, too; to use the folder, write path: ./{name}"
        )

    def get() -> HuggingFaceTokenizer:
        from transformers import AutoTokenizer

        offline = reason_offline() is not None
        inner = AutoTokenizer.from_pretrained(
            name, revision=revision or "main", local_files_only=offline, trust_remote_code=False
        )
        return HuggingFaceTokenizer(inner)

    remedy = (
        "Save it on a machine with a network (AutoTokenizer.from_pretrained(...).save_pretrained(folder)) and give path"
    )
    return from_hub(f"tokenizer {name!r}", get, f"{remedy}.", _cached_files(f"models--{name.replace('/', '--')}"))
