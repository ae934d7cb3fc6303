"""Models and tokenizers by a folder or a name on the Hugging Face hub; without a network, refused within seconds."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from yaml_config.json_text import from_json
from yaml_config.paths import from_home

Loaded = TypeVar("Loaded")

_TIMEOUT = 2.0


class HubError(OSError, ValueError):
    """A folder or a name from which nothing can be loaded; the message says what was tried and what to do."""


def load_from_hub(load: Callable[..., Loaded], name: str, what: str, remedy: str, **options: Any) -> Loaded:
    """`load(name, ...)` of transformers, from a folder, from the cache, and only then from the network.

    `what` names the thing, and `remedy` says what else would do. Raises HubError: where the folder is not there or
    cannot be read, at once; where the hub does not answer, after two seconds instead of the library's 23.
    """
    folder = from_home(name)
    if folder.is_dir() or looks_like_folder(name):
        if not folder.is_dir():
            raise HubError(f"{what} {name!r}: there is no such folder; {remedy}")
        if options.get("use_safetensors") and (problem := weights_problem(folder)):
            raise HubError(f"{what} {name!r}: {problem}; {remedy}")
        return _called(load, str(folder), f"{what} folder {name}", remedy, local_files_only=True, **options)
    try:
        return load(name, local_files_only=True, trust_remote_code=False, **options)
    except Exception as error:  # not in the cache, in any of the library's words
        reason = reason_offline()
        if reason is not None:
            raise HubError(
                f"{what} {name!r} is no folder here and has not been downloaded before, and the hub cannot be reached "
                f"({reason}); {remedy}"
            ) from error
    return _called(load, name, f"{what} {name!r}", remedy, **options)


def looks_like_folder(name: str) -> bool:
    """Whether a path is meant: names on the hub are `name` or `owner/name`."""
    return name.startswith(("/", "./", "../", "~")) or name.count("/") > 1 or name.endswith("/") or "\\" in name


def folder_problem(name: str) -> str | None:
    """Why a folder is no model's; None where it is one, or where a name on the hub is meant. Reads nothing."""
    folder = from_home(name)
    if folder.is_file():
        return "is a file; give the folder that it is in"
    if not folder.is_dir():
        return "there is no such folder" if looks_like_folder(name) else None
    return None if (folder / "config.json").is_file() else "the folder has no config.json"


def weights_problem(folder: Path) -> str | None:
    """Why the weights of a model's folder are not read, None where they may be: an index that names other files.

    With `use_safetensors` transformers takes an index of that name for granted, and opens a pickle that it lists.
    """
    for path in sorted(folder.glob("*.safetensors.index.json")):
        try:
            names = from_json(path.read_text(encoding="utf-8"))["weight_map"].values()
            odd = next((name for name in names if Path(name).name != name or not name.endswith(".safetensors")), None)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            return f"{path} cannot be read as an index of weights: {error}"
        if odd is not None:
            return f"{path} names {odd!r}, and weights are read from safetensors files of that folder alone"
    try:
        chosen = from_json((folder / "config.json").read_text(encoding="utf-8")).get("transformers_weights")
    except (OSError, ValueError, AttributeError):
        return None  # transformers says what is wrong with it
    if chosen is None or (isinstance(chosen, str) and chosen.endswith((".safetensors", ".safetensors.index.json"))):
        return None
    return f"{folder / 'config.json'} names weights {chosen!r}, and they are read from safetensors files alone"


def reason_offline() -> str | None:
    """Why the hub cannot be asked: the environment forbids it, or it does not answer; None where it can."""
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE"):
            return f"the environment sets {variable}"
    address = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    proxy = getproxies().get(address.scheme)
    if proxy and not proxy_bypass(address.hostname or ""):
        address = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=_TIMEOUT).close()
    except OSError as error:
        return f"{address.hostname}: {error.strerror or error}"
    return None


def _called(load: Callable[..., Loaded], name: str, what: str, remedy: str, **options: Any) -> Loaded:
    try:
        return load(name, trust_remote_code=False, **options)
    except Exception as error:  # transformers raises whatever a broken file leads to
        told = " ".join(str(error).split())[:300]
        raise HubError(f"{what} cannot be loaded: {type(error).__name__}: {told}\n{remedy}") from error
