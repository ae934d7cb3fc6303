"""FLOPs of a training step that a model needs, counted once on the shapes of its first batch, for MFU.

Matrix products count two operations for each multiplication, attention included. What is only recomputed in backward, by
activation checkpointing or inside an operator, is no work of the model and does not count (Chowdhery et al. 2022, PaLM,
arXiv 2204.02311, appendix B). 6 * parameters * tokens is no substitute: an embedding multiplies nothing, and the
modulation of adaLN acts once a row.
"""

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from model.attention.chunked.op import NEEDED_FLOPS
from model_factory.training.network import TaskModule

aten: Any = torch.ops.aten
_INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)


def _attention_flops(q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: Any, **__: Any) -> int:
    """Count softmax attention for shapes [B, H, N, D], [B, H, M, D], [B, H, M, E]."""
    return 2 * q[0] * q[1] * q[2] * k[2] * (q[3] + v[3])


def _attention_backward_flops(_gradient: Any, *shapes: Any, **_: Any) -> int:
    return 2 * _attention_flops(*shapes)


_FORMULAS = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
    **NEEDED_FLOPS,
}
"""Formulas that torch's counter lacks, and those without what is recomputed."""


class StepFlops:
    """Counter of a module's FLOPs; it holds a copy of the module on the CPU whose weights have shapes but no storage.

    Create it before the module is wrapped for several processes.
    """

    def __init__(self, module: TaskModule) -> None:
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        copies: dict[int, Any] = {id(module.task): copy.copy(module.task)}
        for held in (*module.parameters(), *module.buffers()):
            copies[id(held)] = _without_storage(held, mode)
        self.module = copy.deepcopy(module, copies)

    def count(self, batch: Mapping[str, Any]) -> int:
        """Return the FLOPs of forward and backward on a batch of the CPU.

        The batch's own tensors are computed with, so that code may choose by their values, such as the rows with a loss.
        Raises what the model raises if it needs values of its weights or outputs.
        """
        log = logging.getLogger(fake_tensor.__name__)
        level = log.level
        log.setLevel(logging.CRITICAL)  # it prints the traceback of each error
        try:
            with torch.random.fork_rng(devices=[]), _Counter() as counter:
                loss = self.module.train()(batch)["loss"]
                counter.is_backward = True
                loss.backward()
        finally:
            log.setLevel(level)
        return int(counter.flops)


def _without_storage(held: Tensor, mode: FakeTensorMode) -> Tensor:
    """Return a tensor of the same shape, type and strides, on the CPU and without storage."""
    with mode:
        found = torch.empty_strided(held.shape, held.stride(), dtype=held.dtype, device="cpu")
    return nn.Parameter(found, requires_grad=held.requires_grad) if isinstance(held, nn.Parameter) else found


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Mode that adds up the FLOPs of operators; operators without storage are not computed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops, self.is_backward = 0, False
        self.formulas: dict[Any, Any] = FlopCounterMode(display=False, custom_mapping=_FORMULAS).flop_registry

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _INDEXED:
            args = (args[0], _without_masks(args[1]), *args[2:])
        out = func(*args, **kwargs)
        formula = self.formulas.get(func._overloadpacket)
        is_recomputed = self.is_backward and torch.is_grad_enabled()  # by a checkpoint; gradients need no gradients
        if formula is not None and not is_recomputed:
            self.flops += int(formula(*args, **kwargs, out_val=out))
        return out


def _without_masks(indices: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return indices whose masks with values are replaced by positions: a tensor without storage takes no masks."""
    found: list[Tensor | None] = []
    for index in indices:
        is_mask = isinstance(index, Tensor) and index.dtype == torch.bool and not isinstance(index, FakeTensor)
        found += index.nonzero().unbind(1) if is_mask and index is not None else [index]
    return found
