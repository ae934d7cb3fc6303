"""Generation: the prompt is processed once, and then one token at a time with the decoder's state (kv cache)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from model.beam_search import beam_search
from model.generation_options import GenerationOptions
from model.inputs import InputError, check_mask, describe

if TYPE_CHECKING:
    from model.decoding_state import DecodingState
    from model.transformer import PerformerDecoder


@torch.no_grad()
def generate(
    decoder: "PerformerDecoder",
    tokens: Tensor,
    options: GenerationOptions,
    *,
    mask: Tensor | None = None,
    context: Tensor | None = None,
    context_mask: Tensor | None = None,
) -> Tensor:
    """Return the prompts int64 [B, N] with their continuations, [B, N + T] with T <= max_new_tokens.

    Each row's continuation is that of the row alone without its padding, on either side, where `mask` bool [B, N] is
    False. Training modes are restored afterwards, and no random features are redrawn. Raises InputError.
    """
    _check(decoder, tokens, mask, options)
    if mask is not None and bool(mask.all()):
        mask = None  # attention without a mask is faster
    with evaluating(decoder):
        logits, state = decoder.start(tokens, context, mask, context_mask, capacity=options.max_new_tokens)
        continued = beam_search if options.num_beams > 1 else _sample_tokens
        new = continued(decoder, logits, state, options)
    return torch.cat([tokens.long(), new], dim=1)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode inside the block, and restore the mode of every module after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training


def choose_tokens(logits: Tensor, options: GenerationOptions) -> Tensor:
    """Choose one token int64 [B] from each row of logits [B, V]: the most likely at temperature 0.0, else sampled."""
    if options.temperature == 0:
        return logits.argmax(-1)
    logits = logits.float()
    coldest = torch.finfo(logits.dtype).tiny  # a smaller divisor is 0 in float32, and 0 / 0 is NaN
    logits = (logits - logits.amax(-1, keepdim=True)) / max(options.temperature, coldest)
    if options.top_k is not None and options.top_k < logits.shape[-1]:
        least = logits.topk(options.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if options.top_p is not None and options.top_p < 1:
        logits = _nucleus(logits, options.top_p)
    try:
        return torch.multinomial(logits.softmax(-1), 1, generator=options.generator).squeeze(1)
    except RuntimeError as error:
        if torch.isfinite(logits.amax(-1)).all():
            raise
        raise InputError(
            "the model's logits are not finite: its weights are damaged, or its training diverged"
        ) from error


def _nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Set logits outside the smallest set of probability `top_p` to -inf; the most likely token always remains."""
    ranked, order = logits.sort(dim=-1, descending=True, stable=True)
    probability = ranked.softmax(-1)
    before = probability.cumsum(-1) - probability  # of the more likely tokens
    before[:, 0] = 0.0
    return torch.full_like(logits, -torch.inf).scatter(1, order, ranked.masked_fill(before >= top_p, -torch.inf))


def _sample_tokens(
    decoder: "PerformerDecoder", logits: Tensor, state: "DecodingState", options: GenerationOptions
) -> Tensor:
    """Return new tokens int64 [B, T] from `logits` [B, V], greedy or sampled."""
    ended = torch.zeros(logits.shape[0], dtype=torch.bool, device=logits.device)
    new: list[Tensor] = []
    while True:
        new.append(choose_tokens(logits, options).masked_fill(ended, options.padding))
        if options.eos_token is not None:
            ended |= new[-1] == options.eos_token
        if len(new) == options.max_new_tokens or (options.eos_token is not None and bool(ended.all())):
            return torch.stack(new, dim=1)
        logits = decoder.step(new[-1].unsqueeze(1), state)


def _check(decoder: "PerformerDecoder", tokens: Tensor, mask: Tensor | None, options: GenerationOptions) -> None:
    params = decoder.params
    if params.vocab_size is None or params.input_dim is not None:
        remedy = "set vocab_size" if params.vocab_size is None else "leave input_dim out"
        raise InputError(f"this decoder does not take tokens, so it cannot generate; {remedy} in its section")
    options.check_vocabulary(params.vocab_size)
    device = next(decoder.parameters()).device.type
    if options.generator is not None and options.generator.device.type != device:
        given = options.generator.device.type
        raise InputError(f"generator is on {given}, and the model on {device}; use torch.Generator({device!r})")
    is_ids = isinstance(tokens, Tensor) and tokens.dim() == 2 and not tokens.is_floating_point()
    if not is_ids or tokens.dtype == torch.bool:
        raise InputError(f"tokens must be token ids, int [B, N]; got {describe(tokens)}")
    if 0 in tokens.shape:
        raise InputError(
            f"the prompt is empty, {describe(tokens)}; give each row at least one token, such as the begin token"
        )
    check_mask(mask, tokens, "mask")
    longest = tokens.shape[1] if mask is None else int(mask.sum(1).max())
    if params.max_length is not None and longest + options.max_new_tokens > params.max_length:
        raise InputError(
            f"a prompt of {longest} tokens and max_new_tokens {options.max_new_tokens} need "
            f"{longest + options.max_new_tokens} positions; max_length is {params.max_length}"
        )
