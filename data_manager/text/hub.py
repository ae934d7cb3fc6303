"""Data sets and tokenizers of the Hugging Face hub: downloaded once, then found offline; offline misses fail at once."""

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from data_manager.documents import Corpus
from data_manager.errors import DataError
from data_manager.text.arrow import make_corpora
from data_manager.text.table_types import HubDatasetConfig
from model_factory.yaml_config.paths import forbidden_reason

if TYPE_CHECKING:
    pass


# Check that a server is reachable, within two seconds.


TIMEOUT = 1.5
"""Seconds to wait for the DNS lookup and the connection."""


def unreachable(url: str) -> str | None:
    """Return why the server of `url`, or its proxy, does not answer; None if it does."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxy = getproxies().get(parts.scheme)
    if proxy and not proxy_bypass(host):
        parts = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    reasons: list[str | None] = ["no answer within 2 s"]
    # a DNS lookup has no timeout, so it runs in a thread
    thread = Thread(
        target=_connect, args=(parts.hostname or "", parts.port or _port(parts.scheme), reasons), daemon=True
    )
    thread.start()
    thread.join(TIMEOUT)
    return reasons[-1]


def _port(scheme: str) -> int:
    return 80 if scheme == "http" else 443


def _connect(host: str, port: int, reasons: list[str | None]) -> None:
    try:
        socket.create_connection((host, port), timeout=TIMEOUT).close()
        reasons.append(None)
    except (OSError, UnicodeError) as error:
        reasons.append(getattr(error, "strerror", None) or str(error))


Found = TypeVar("Found")


_YES = ("1", "ON", "YES", "TRUE")


def hub_corpora(config: HubDatasetConfig) -> dict[str, Corpus]:
    """Load the splits of a data set of the hub; raise DataError, offline within two seconds."""
    repo = config.repo or config.name
    wanted = config.hub_splits()
    settings: dict[str, Any] = {"name": config.config, "revision": config.revision, "streaming": config.streaming}

    def get() -> Mapping[str, Any]:
        import datasets

        # with this prefix, a local folder of the same name is never loaded instead
        path = f"hf://datasets/{repo}"
        if wanted:
            return {ours: datasets.load_dataset(path, split=theirs, **settings) for ours, theirs in wanted.items()}
        found: Mapping[str, Any] = datasets.load_dataset(path, **settings)
        return found

    remedy = "Save it on a machine with a network (load_dataset(...).save_to_disk(folder)) and read it by source: disk"
    found = from_hub(f"data set {repo!r}", get, f"{remedy}.", _cached_tables(repo))

    return make_corpora(found, config, repo)


def from_hub(what: str, get: Callable[[], Found], remedy: str, cached: Iterator[Path]) -> Found:
    """Return what `get` downloads, or finds in the cache when offline; raise DataError.

    If offline and nothing is `cached`, `get` is not called, as importing the hub's libraries takes a second or two.
    """
    reason = reason_offline()
    if reason is not None and next(cached, None) is None:
        raise _not_downloaded(what, reason, remedy)
    try:
        if reason is None:
            return get()
        with _offline():
            return get()
    except Exception as error:  # the hub's libraries raise some thirty kinds
        if reason is None:
            detail = " ".join(str(error).split())
            raise DataError(
                f"{what} cannot be downloaded from {endpoint()}: {type(error).__name__}: {detail}\n{remedy}"
            ) from error
        raise _not_downloaded(what, reason, remedy) from error


def _not_downloaded(what: str, reason: str, remedy: str) -> DataError:
    return DataError(f"{what} is not in the cache, and {endpoint()} cannot be reached ({reason}).\n{remedy}")


def _cached_tables(repo: str) -> Iterator[Path]:
    """Yield folders of downloaded data sets of this owner."""
    from huggingface_hub import constants

    owner, _, name = repo.rpartition("/")
    folder = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets")
    # datasets changes the case of a name, so only the owner is matched
    return folder.glob(f"{owner}___*" if owner else f"{name[0]}*")


def cached_files(name: str) -> Iterator[Path]:
    """Yield downloaded files of a repository."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).glob(f"{name}/snapshots/*/*")


def endpoint() -> str:
    """Return the URL of the hub, which the environment variable HF_ENDPOINT overrides."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def reason_offline() -> str | None:
    """Return why the hub is unreachable: no answer, or the environment forbids requests. None if it is reachable."""
    if (forbidden := forbidden_reason()) is not None:
        return forbidden
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").upper() in _YES:
            return f"the environment sets {name}"
    return unreachable(endpoint())


@contextmanager
def _offline() -> Iterator[None]:
    """Restrict the hub's libraries to their caches; they would retry a dead network for 23 s."""
    import datasets.config
    import huggingface_hub.constants

    modules: tuple[Any, ...] = (datasets.config, huggingface_hub.constants)
    before = [module.HF_HUB_OFFLINE for module in modules]
    try:
        for module in modules:
            module.HF_HUB_OFFLINE = True
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value
