"""Cross-attention for pretrained models, whose own layers attend to no source."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._guards import active_fake_mode

from model.activation_checkpointing import CallState, Repeat
from model.attention.rotary import Rotation, rotary_angles, rotation_at
from model.denoisers.ddit import CrossAttention
from model.denoisers.pretrained import PretrainedError
from model.evaluation_mode import evaluation_mode

Read = Callable[[int, Tensor], Tensor]
"""Function that adds what a layer's cross-attention reads to the layer's output."""


class AddedCrossAttention(nn.Module, CallState):
    """Cross-attention after each layer of a pretrained model, added to the layer's output.

    Output projections are zero at first, so that training starts from the pretrained network; Flamingo (Alayrac et al.
    2022, arXiv 2204.14198) has gates for that. Queries and keys are rotated by position.

    Arguments:
        model: a language model of transformers, whose layers are its first list of `num_hidden_layers` modules.
        name: of the model, for messages.
    Raises PretrainedError unless there is such a list, and the model calls its modules in turn, each once, to map
    [B, L, width] to the same shape.
    """

    def __init__(self, model: Any, name: str) -> None:
        super().__init__()
        self.name, self.width = name, int(getattr(model.config, "hidden_size", 0))
        self._call: tuple[nn.Module, Read] | None = None
        self.list_name, count = _find_layers(model, name)
        self.num_heads = _num_heads(model.config, self.width)
        if self.num_heads == 0:
            raise PretrainedError(f"{name} has hidden_size {self.width}, and rotary positions need an even one")
        self.layers = nn.ModuleList(CrossAttention(self.width, self.num_heads) for _ in range(count))
        for layer in self.layers:
            nn.init.zeros_(layer.to_out.weight)  # type: ignore[union-attr,arg-type]
        if active_fake_mode() is None:
            self._try(model)

    @contextmanager
    def reading(
        self, model: nn.Module, context: Tensor, mask: Tensor | None, positions: Tensor | None = None
    ) -> Iterator[None]:
        """Add what each layer reads in context [B, M, width] to its output, in the one call of `model` inside.

        mask is bool [B, M], True at real tokens; positions are int [L] or [B, L], 0..L-1 by default. Raises PretrainedError unless every layer is called once, in turn.
        """
        rotation = None if positions is None else self._rotation(positions)
        called: list[int] = []

        def read(index: int, hidden: Tensor) -> Tensor:
            called.append(index)
            return self._add(index, hidden, context, mask, rotation)

        with self._hooked(model, read):
            yield
        if called != list(range(len(self.layers))):
            raise self._error(f"they are called in the order {called}")

    def capture(self) -> Repeat:
        """Capture the model and the source that its layers read in the current call of `reading`, if there is one."""
        return nullcontext if self._call is None else partial(self._hooked, *self._call)

    @contextmanager
    def _hooked(self, model: nn.Module, read: Read) -> Iterator[None]:
        """Pass the output of each layer through `read` inside the block."""
        layers: Any = model.get_submodule(self.list_name)

        def hook(index: int) -> Callable[[nn.Module, Any, Any], Any]:
            def changed(layer: nn.Module, given: Any, output: Any) -> Any:
                if isinstance(output, tuple):
                    return (read(index, output[0]), *output[1:])
                return read(index, output)

            return changed

        handles = [layer.register_forward_hook(hook(index)) for index, layer in enumerate(layers)]
        before, self._call = self._call, (model, read)
        try:
            yield
        finally:
            self._call = before
            for handle in handles:
                handle.remove()

    def _rotation(self, positions: Tensor) -> Rotation:
        return rotation_at(positions if positions.dim() == 1 else positions[:, None], self.width // self.num_heads)

    def _add(
        self, index: int, hidden: Tensor, context: Tensor, mask: Tensor | None, rotation: Rotation | None
    ) -> Tensor:
        """Return hidden [B, L, width] plus what the cross-attention of a layer reads in context [B, M, width]."""
        batch = context.shape[0]
        if not isinstance(hidden, Tensor) or hidden.dim() != 3 or hidden.shape[::2] != (batch, self.width):
            raise self._error(f"their output is not of shape [{batch}, L, {self.width}]")
        layer: Any = self.layers[index]
        rotation = rotation or rotary_angles(hidden.shape[1], self.width // self.num_heads, hidden.device)
        own = layer.to_out.weight.dtype  # pretrained weights may have another one
        read: Tensor = layer(hidden.to(own), context.to(own), rotation, mask)
        return hidden + read.to(hidden.dtype)

    @torch.no_grad()
    def _try(self, model: Any) -> None:
        """Raise PretrainedError unless cross-attention can be added in a call of the model."""
        table = model.get_input_embeddings()
        device = table.weight.device
        context = torch.zeros(1, 2, self.width, device=device)
        with evaluation_mode(model), self.reading(model, context, None):
            model(inputs_embeds=table(torch.zeros(1, 4, dtype=torch.long, device=device)))

    def _error(self, reason: str) -> PretrainedError:
        return PretrainedError(
            f"{self.name}: cross-attention cannot be added, as the modules of {self.list_name} are not layers of one "
            f"residual stream ({reason}); leave encoder out, which puts sources in the row, or use a model such as bert, "
            "gpt2, llama or qwen2"
        )


def find_begin_token(config: Any) -> int:
    """Return the id of the token that a pretrained causal model sees first: its bos token, else its eos token, else 0."""
    for key in ("bos_token_id", "eos_token_id"):
        found = getattr(config, key, None)
        first = found[0] if isinstance(found, list) and found else found
        if isinstance(first, int) and 0 <= first < config.vocab_size:
            return first
    return 0


def _find_layers(model: nn.Module, name: str) -> tuple[str, int]:
    """Return the name and the length of the first list of modules that is as long as the model has layers."""
    config: Any = model.config
    count = getattr(config, "num_hidden_layers", None)
    lists = {key: len(module) for key, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    for key, length in lists.items():
        if length == count:
            return key, length
    known = ", ".join(f"{key} has {length}" for key, length in lists.items() if not any(map(str.isdigit, key)))
    raise PretrainedError(
        f"{name}: cross-attention cannot be added, as no list of modules has the {count} layers of its config "
        f"({known or 'it has no lists of modules'}); leave encoder out, which puts sources in the row, or use a model such "
        "as bert, gpt2, llama or qwen2"
    )


def _num_heads(config: Any, width: int) -> int:
    """Return the largest number of heads, at most the model's own, that divides the width into even parts; 0: none."""
    own = getattr(config, "num_attention_heads", None)
    most = own if isinstance(own, int) else width // 64 or 1
    return next((heads for heads in range(most, 0, -1) if width and width % (2 * heads) == 0), 0)
