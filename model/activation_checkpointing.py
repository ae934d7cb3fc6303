"""Activation checkpointing (Chen et al. 2016, arXiv 1604.06174): layers compute again in backward what they do not keep.

Layers are the modules in a network's ModuleLists; models of transformers checkpoint theirs by their own method. The
global random state is restored for the second computation, so gradients are those without checkpointing, bit for bit.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import Any, Literal, Protocol, TypeGuard

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

Checkpointing = Literal["none", "selective", "full"]
Contexts = tuple[AbstractContextManager[Any], AbstractContextManager[Any]]
Repeat = Callable[[], AbstractContextManager[None]]

MATRIX_PRODUCTS = [torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default]
"""Operators whose results selective checkpointing keeps: the expensive ones."""


class CheckpointingError(ValueError):
    """A network whose activations cannot be checkpointed; the message says why."""


class CallState(ABC):
    """Part of a network that reads or changes more than its inputs and weights in a call."""

    @abstractmethod
    def capture(self) -> Repeat:
        """Capture the state at the start of a call; return what opens a context that repeats the call from it.

        Inside the context the part reads the captured state, and changes nothing that outlives it.
        """


class CheckpointedLayer(nn.Module):
    """First base class of a checkpointed layer; its `forward` is that of the layer, with the same weights and names."""

    keeps_products: bool

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer; in training keep its inputs alone, and with `keeps_products` its matrix products."""
        run = partial(super().forward, **kwargs)
        if not (self.training and torch.is_grad_enabled()):
            return run(*args)
        states = [module for module in self.modules() if isinstance(module, CallState)]
        return checkpoint(run, *args, use_reentrant=False, **_options(states, keeps_products=self.keeps_products))


def checkpoint_activations(network: nn.Module, kind: Checkpointing) -> int:
    """Let the layers of a network compute their activations again in backward; return the number of such parts.

    `kind` full keeps the inputs of layers alone, selective also their matrix products, and none changes nothing.
    Raises CheckpointingError for a network without layers, or with a model of transformers that cannot do it.
    """
    if kind == "none":
        return 0
    keeps_products = kind == "selective"
    pretrained = {name: module for name, module in network.named_modules() if _has_own_method(module)}
    within = {id(inner) for module in pretrained.values() for inner in module.modules()}
    states = [module for module in network.modules() if isinstance(module, CallState)]
    within |= {id(inner) for state in states for inner in state.modules()}  # their layers run in those of others
    layers = [layer for layer in find_layers(network, outermost=True) if id(layer) not in within]
    beside = {id(inner) for layer in layers for inner in layer.modules()}
    shared = [state for state in states if id(state) not in beside]
    for name, module in pretrained.items():
        _use_own_method(module, name, _options(shared, keeps_products=keeps_products))
    # a second computation would count a batch twice in running statistics
    layers = [layer for layer in layers if not any(isinstance(module, _BatchNorm) for module in layer.modules())]
    classes = {kind: _checkpointed(kind) for kind in map(type, layers)}
    for layer in layers:
        layer.__class__ = classes[type(layer)]
        layer.keeps_products = keeps_products  # type: ignore[assignment]
    count = len(pretrained) + len(layers)
    if not count:
        raise CheckpointingError(
            f"the network {type(network).__name__} has no layers in a ModuleList, so there is nothing to checkpoint"
        )
    return count


def find_layers(network: nn.Module, *, outermost: bool = False) -> Iterator[nn.Module]:
    """Yield the layers of a network: the modules in its ModuleLists that consist of further modules.

    Single linear layers, convolutions and embeddings in a list are no layers; nor are layers inside others if only the
    `outermost` are asked for.
    """
    inside = set[int]()
    for module in network.modules():
        if not isinstance(module, nn.ModuleList) or id(module) in inside:
            continue
        for layer in module:
            if next(layer.children(), None) is None:
                continue
            yield layer
            if outermost:
                inside |= {id(inner) for inner in layer.modules()}


def _checkpointed(kind: type[nn.Module]) -> type[nn.Module]:
    """Return a class of checkpointed layers, under the name of the layers' own class."""
    return type(kind.__name__, (CheckpointedLayer, kind), {"__module__": kind.__module__})


def _options(states: Sequence[CallState], *, keeps_products: bool) -> dict[str, Any]:
    """Return the arguments of `checkpoint` about contexts; torch.compile takes only its own function for them."""
    if states:
        return {"context_fn": partial(_contexts, states, keeps_products)}
    if keeps_products:
        return {"context_fn": partial(create_selective_checkpoint_contexts, MATRIX_PRODUCTS)}
    return {}


def _contexts(states: Sequence[CallState], keeps_products: bool) -> Contexts:
    """Return the contexts of a first computation and of its repetition, from the states at this moment."""
    first, again = nullcontext(), nullcontext()
    if keeps_products:
        first, again = create_selective_checkpoint_contexts(MATRIX_PRODUCTS)  # type: ignore[no-untyped-call]
    return first, _Repetition([lambda: again, *(state.capture() for state in states)])


class _Repetition:
    """Contexts that are entered together, each time anew, since backward may run twice."""

    def __init__(self, parts: list[Callable[[], AbstractContextManager[Any]]]) -> None:
        self.parts, self.entered = parts, list[ExitStack]()

    def __enter__(self) -> None:
        with ExitStack() as stack:
            for part in self.parts:
                stack.enter_context(part())
            self.entered.append(stack.pop_all())

    def __exit__(self, *error: Any) -> None:
        self.entered.pop().__exit__(*error)


class _OwnMethod(Protocol):
    def modules(self) -> Iterator[nn.Module]: ...

    def activation_checkpointing_enable(self, activation_checkpointing_kwargs: dict[str, Any]) -> None: ...


def _has_own_method(module: object) -> TypeGuard[_OwnMethod]:
    return hasattr(module, "activation_checkpointing_enable")


def _use_own_method(model: _OwnMethod, name: str, options: dict[str, Any]) -> None:
    """Let a model of transformers checkpoint its layers; raise CheckpointingError if its architecture cannot."""
    try:
        model.activation_checkpointing_enable({"use_reentrant": False, **options})
    except ValueError as error:
        raise CheckpointingError(f"{name or 'the network'}, a {type(model).__name__}: {error}") from error
