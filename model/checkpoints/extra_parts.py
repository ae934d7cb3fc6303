"""Parts that no configuration selects: a model has them if the checkpoint that it is loaded from has them.

The networks of performer-pytorch need them (`model.checkpoints.performer_pytorch`), and the published decoders of latents.
The names of tensors select them:
| name in a stack, or in the whole model | part |
| --- | --- |
| `*.to_q.bias`, `*.to_k.bias`, `*.to_v.bias` | biases of attention's projections |
| `layers.N.feed_forward_between.*` | a feed-forward layer between self-attention and cross-attention |
| `input.position` without `position: absolute` | a table of positions that is added to the input and is not trained |
| `head.bias` without `head_bias: true` | the bias of an untied head |
| `final_norm.weight`, `final_norm.bias` beside ReZero or ScaleNorm | a LayerNorm instead of the stack's norm |
| `final_norm.absent` | no final norm |
| `lm_head.bias` | the bias of the language head of a latent decoder |
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from model.attention.multi_head import MultiHeadAttention
from model.norms import LayerNorm
from model.transformer.norms import Residual
from model.transformer.stack import FeedForward, PerformerStack


class AbsentNorm(nn.Module):
    """Identity with an empty buffer, whose name in a checkpoint means that there is no final norm."""

    absent: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("absent", torch.zeros(0))

    def forward(self, x: Tensor) -> Tensor:
        """Return x [..., d_model] unchanged."""
        return x


def add_extra_parts(model: nn.Module, names: Collection[str]) -> None:
    """Add to `model` the parts that `names`, the tensors of a checkpoint, require.

    Their values are not set yet. The caller reports names that belong to no part.
    """
    stacks = [(name, module) for name, module in model.named_modules() if isinstance(module, PerformerStack)]
    for name, stack in stacks:
        prefix = f"{name}." if name else ""
        own = {key.removeprefix(prefix) for key in names if key.startswith(prefix)}
        device = next(stack.parameters()).device
        with torch.device(device):
            _extend_stack(stack, own)
            for index, layer in enumerate(stack.transformer_layers()):
                if layer.feed_forward_between is None and any(
                    key.startswith(f"layers.{index}.feed_forward_between.") for key in own
                ):
                    layer.feed_forward_between = Residual(FeedForward(stack.params), stack.params)
            _add_biases(stack, own)
    for name, module in model.named_modules():
        is_head = name.rpartition(".")[2] == "lm_head" and isinstance(module, nn.Linear)
        if is_head and module.bias is None and f"{name}.bias" in names:
            module.bias = nn.Parameter(torch.zeros(module.out_features, device=module.weight.device))


def _extend_stack(stack: PerformerStack, names: Collection[str]) -> None:
    params = stack.params
    if "final_norm.absent" in names:
        stack.final_norm = AbsentNorm()
    elif "final_norm.bias" in names and not isinstance(stack.final_norm, nn.LayerNorm):
        stack.final_norm = LayerNorm(params.d_model)
    if "input.position" in names and stack.input.position is None and params.max_length is not None:
        del stack.input.position  # None, under the name of the new buffer
        stack.input.register_buffer("position", torch.zeros(params.max_length, params.d_model))
    if "head.bias" in names and stack.head is not None and stack.head.bias is None:
        stack.head.bias = nn.Parameter(torch.zeros(stack.head.out_features))


def _add_biases(stack: PerformerStack, names: Collection[str]) -> None:
    for prefix, module in stack.named_modules():
        if isinstance(module, MultiHeadAttention):
            for projection in ("to_q", "to_k", "to_v"):
                linear = getattr(module, projection)
                if f"{prefix}.{projection}.bias" in names and linear.bias is None:
                    linear.bias = nn.Parameter(torch.zeros(linear.out_features))
