"""Published checkpoint, read: the network of ours that fits it, and its tensors under our names, each read on demand.

A folder, file or name on the hub is found by `model.checkpoints.source`; the families have their own readers.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.checkpoints.causal_decoder import read_decoder
from model.checkpoints.ddit_family import read_network
from model.checkpoints.ddit_settings import Stated, merge, read_settings
from model.checkpoints.errors import PublishedError
from model.checkpoints.families import AUTOREGRESSIVE
from model.checkpoints.language_families import is_adapted, language_family
from model.checkpoints.language_models import read_language_model
from model.checkpoints.network import Network, Part
from model.checkpoints.pickles import StoredTensor, plain_values
from model.checkpoints.source import Source
from model.checkpoints.weights import Weights, check_place, is_finite, open_weights

_MASKS = ("mdlm", "bd3lm", AUTOREGRESSIVE)
"""Families of the DDiT network whose mask a tokenizer may name."""


@dataclass(frozen=True)
class Options:
    """Options of reading: see those of `model-factory import`."""

    mask_id: int | None = None
    family: str | None = None
    allow_pickle: bool = False
    use_average: bool = True


@dataclass(frozen=True)
class Published:
    """A published checkpoint: its files, the network of ours, our tensors, and a description of a moving average."""

    source: Source
    weights: Weights
    network: Network
    tensors: "OwnTensors"
    average: str | None


def read_published(source: Source, options: Options, tokenizer_mask: Callable[[], int | None]) -> Published:
    """Read the settings of a checkpoint and the names and shapes of its tensors; no numbers are read.

    `tokenizer_mask` returns the mask of its tokenizer, and is called where nothing else names it. Raises PublishedError for
    a checkpoint that cannot be read or does not fit its config.
    """
    where = str(source.place)
    check_place(source.place)
    family = language_family(source.config, options.family)
    if family is None and not is_adapted(source.config):
        _read_stated(source, None, options.family)  # an error before the weights are opened, which may be large
    weights = open_weights(source.place, allow_pickle=options.allow_pickle)
    family = language_family(source.config, options.family, weights)
    if family is not None:
        is_named = options.mask_id is not None or source.config.get("mask_token_id") is not None
        mask = options.mask_id if is_named else tokenizer_mask()
        network = read_language_model(weights, source.config, where, mask, family)
    else:
        stated = _read_stated(source, weights, options.family)
        is_named = options.mask_id is not None or stated.family not in _MASKS
        mask = options.mask_id if is_named else tokenizer_mask()
        read = read_decoder if stated.family == AUTOREGRESSIVE else read_network
        network = read(weights, stated, where, mask)
    averaged, average = _find_average(weights, network, where, options.use_average)
    return Published(source, weights, network, OwnTensors(weights, network, averaged), average)


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


class OwnTensors(Mapping[str, Tensor]):
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

    def __getitem__(self, name: str) -> Tensor:
        return self._parts[name].make(self._read)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

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
