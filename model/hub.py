"""Models and tokenizers from a folder or from the Hugging Face hub; offline, an error within seconds."""

import os
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from model.checkpoints.families import is_published
from model_factory.yaml_config.paths import expand_home, forbidden_reason
from model_factory.yaml_config.schema_version import parse_json

Loaded = TypeVar("Loaded")

MAX_LAYERS = 10_000
_TIMEOUT = 2.0
_are_replaced = ContextVar("_are_replaced", default=False)
_given_notes: set[tuple[str, str]] = set()


class HubError(OSError, ValueError):
    """A folder or hub name that cannot be loaded; the message says what was tried and what to do."""


def load_from_hub(load: Callable[..., Loaded], name: str, what: str, remedy: str, **options: Any) -> Loaded:
    """Call `load(name, ...)` of transformers, which reads a folder, else the cache, and else the network.

    `what` names the kind of object in messages, and `remedy` says what to do instead. Raises HubError, at once for a
    folder that is missing or cannot be read, and after two seconds (not the library's 23) if the hub does not answer.
    """
    folder = expand_home(name)
    if folder.is_dir() or is_folder_path(name):
        if not folder.is_dir():
            raise HubError(f"{what} {name!r}: no such folder; {remedy}")
        if options.get("use_safetensors") and (problem := find_weights_problem(folder)):
            raise HubError(f"{what} {name!r}: {problem}; {remedy}")
        return _call_loader(load, str(folder), f"{what} folder {name}", remedy, local_files_only=True, **options)
    try:
        return load(name, local_files_only=True, trust_remote_code=False, **options)
    except Exception as error:  # not in the cache; the library raises many types for it
        reason = find_offline_reason()
        if reason is not None:
            raise HubError(
                f"{what} {name!r} is neither a folder nor in the cache, and the hub cannot be reached "
                f"({reason}); {remedy}"
            ) from error
    return _call_loader(load, name, f"{what} {name!r}", remedy, **options)


def load_config_from_hub(name: str, remedy: str) -> Any:
    """Load the config of a pretrained model with `load_from_hub`; raise HubError for one of more than MAX_LAYERS layers."""
    from transformers import AutoConfig

    try:
        config = load_from_hub(AutoConfig.from_pretrained, name, "pretrained model", remedy)
    except HubError as error:
        if _is_published(name):
            raise HubError(
                f"pretrained model {name!r} is a published diffusion model, which transformers has no architecture for; make "
                f"a run of it: model-factory import --from {name} --output runs/imported"
            ) from error
        unknown = re.search(r"has model type `([^`]*)` but Transformers does not recognize", str(error))
        if unknown is None:
            raise
        raise HubError(
            f"pretrained model {name!r}: transformers has no architecture {unknown[1]!r}, which config.json names as "
            f"model_type; {remedy}"
        ) from error
    for key in ("num_hidden_layers", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers"):
        count = getattr(config, key, None)
        if isinstance(count, int) and count > MAX_LAYERS:
            raise HubError(
                f"pretrained model {name!r}: config.json has {key} {count:,}, and at most {MAX_LAYERS:,} fit"
            )
    return config


def _is_published(name: str) -> bool:
    """Return True if the config.json of a folder, or of a name in the cache, is of a published diffusion model."""
    from transformers import PretrainedConfig

    try:
        content, _ = PretrainedConfig.get_config_dict(name, local_files_only=True)
    except (OSError, ValueError):  # missing, damaged, or no name of the hub
        return False
    return is_published(content)


@contextmanager
def _announcing(text: str) -> Iterator[None]:
    """Print `text` to standard error once the block has taken two seconds."""
    timer = threading.Timer(_TIMEOUT, _warn, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def load_model_from_hub(load: Callable[..., Any], name: str, remedy: str, **options: Any) -> Any:
    """Load a transformers model with `load_from_hub`, from safetensors alone; return it.

    A tensor of the backbone that the files lack or have in another shape would keep random values: it raises HubError.
    Fresh tensors of a head or pooler, and layers that the files have beyond the config's, are named in a warning.
    Inside `replacing_weights` nothing is checked.
    """
    safe = {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    layers = getattr(options.get("config"), "num_hidden_layers", None)
    size = f" of {layers} layers" if layers else ""
    with _silenced_report(), _announcing(f"note: loading the pretrained model {name}{size} ..."):
        model, found = load_from_hub(load, name, "pretrained model", remedy, **safe, **options)
    if not weights_are_replaced():
        if problem := find_loading_problem(model, found, allow_head=True):
            raise HubError(f"pretrained model {name!r}: {problem}; {remedy}")
        for note in _describe_fresh_parts(model, found):
            if (name, note) not in _given_notes:
                _given_notes.add((name, note))
                _warn(f"note: pretrained model {name!r}: {note}")
    return model


def _warn(text: str) -> None:
    import logging  # takes 2 ms, which most checks of a file can save

    logging.getLogger(__name__).warning("%s", text)


@contextmanager
def _silenced_report() -> Iterator[None]:
    """Silence the library's table of tensors that were not loaded, all of which `load_model_from_hub` checks."""
    import logging

    log = logging.getLogger("transformers.modeling_utils")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


@contextmanager
def replacing_weights() -> Iterator[None]:
    """Build pretrained models inside the block without a check of their weights, which those of a run then replace."""
    token = _are_replaced.set(True)
    try:
        yield
    finally:
        _are_replaced.reset(token)


def weights_are_replaced() -> bool:
    """Return True inside `replacing_weights`."""
    return _are_replaced.get()


def find_loading_problem(model: Any, found: Mapping[str, Any], *, allow_head: bool) -> str | None:
    """Return which tensors of a transformers model were not loaded, or None if all were.

    `found` is the library's loading info. With `allow_head`, tensors outside the backbone and of a pooler may be fresh.
    """
    if found["mismatched_keys"]:
        texts = sorted(
            f"{key} is {list(theirs)} instead of {list(own)}" for key, theirs, own in found["mismatched_keys"]
        )
        return f"the weights do not have the shapes of config.json: {_shorten(texts)}"
    missing = sorted(key for key in found["missing_keys"] if not (allow_head and _is_head(model, key)))
    if not missing:
        return None
    total = len(dict(model.named_parameters()))
    return f"the weights lack {len(missing)} of the model's {total} tensors, which would be random: {_shorten(missing)}"


def _describe_fresh_parts(model: Any, found: Mapping[str, Any]) -> Iterator[str]:
    if fresh := sorted(found["missing_keys"]):
        yield f"its files lack {_shorten(fresh, 12)}; these start from random values"
    layers = {_without_numbers(key) for key in model.state_dict()}
    prefix = f"{model.base_model_prefix}."
    if surplus := sorted(
        key for key in found["unexpected_keys"] if {_without_numbers(key), _without_numbers(prefix + key)} & layers
    ):
        yield f"config.json has fewer layers than the weights; not used: {_shorten(surplus)}"


def _is_head(model: Any, key: str) -> bool:
    """Return True for a tensor that is not part of the backbone: of a task's head, or of a pooler."""
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    return not key.startswith(prefix) or "pooler" in key.split(".")


def _without_numbers(key: str) -> str:
    return re.sub(r"\d+", "N", key)


def _shorten(names: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def is_folder_path(name: str) -> bool:
    """Return True for the path of a folder; names on the hub are `name` or `owner/name`."""
    return name.startswith(("/", "./", "../", "~")) or name.count("/") > 1 or name.endswith("/") or "\\" in name


def find_folder_problem(name: str) -> str | None:
    """Return why a folder holds no model, or None for a model's folder or a hub name; read no file."""
    folder = expand_home(name)
    if folder.is_file():
        return "is a file; give its folder"
    if not folder.is_dir():
        return "there is no such folder" if is_folder_path(name) else None
    return None if (folder / "config.json").is_file() else "the folder has no config.json"


def find_weights_problem(folder: Path) -> str | None:
    """Return why the weights of a model's folder must not be loaded, such as an index that names a pickle, or None.

    Even with `use_safetensors`, transformers trusts an index of that name and opens a pickle that it lists.
    """
    for path in sorted(folder.glob("*.safetensors.index.json")):
        try:
            names = parse_json(path.read_text(encoding="utf-8"))["weight_map"].values()
            odd = next((name for name in names if Path(name).name != name or not name.endswith(".safetensors")), None)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            return f"{path} cannot be read as an index of weights: {error}"
        if odd is not None:
            return f"{path} names {odd!r}; weights are loaded from safetensors files of that folder alone"
    try:
        chosen = parse_json((folder / "config.json").read_text(encoding="utf-8")).get("transformers_weights")
    except (OSError, ValueError, AttributeError):
        return None  # transformers reports the error
    if chosen is None or (isinstance(chosen, str) and chosen.endswith((".safetensors", ".safetensors.index.json"))):
        return None
    return f"{folder / 'config.json'} names weights {chosen!r}; weights are loaded from safetensors files alone"


def find_offline_reason() -> str | None:
    """Return why the hub cannot be reached: the environment forbids it or it does not answer; None if it can."""
    if (forbidden := forbidden_reason()) is not None:
        return forbidden
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE"):
            return f"the environment sets {variable}"
    address = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    from urllib.request import getproxies, proxy_bypass  # takes 10 ms, which most checks of a file can save

    proxy = getproxies().get(address.scheme)
    if proxy and not proxy_bypass(address.hostname or ""):
        address = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=_TIMEOUT).close()
    except OSError as error:
        return f"{address.hostname}: {error.strerror or error}"
    return None


def _call_loader(load: Callable[..., Loaded], name: str, what: str, remedy: str, **options: Any) -> Loaded:
    try:
        return load(name, trust_remote_code=False, **options)
    except Exception as error:  # transformers raises many types for a damaged file
        text = " ".join(str(error).split())[:300]
        raise HubError(f"{what} cannot be loaded: {type(error).__name__}: {text}\n{remedy}") from error
