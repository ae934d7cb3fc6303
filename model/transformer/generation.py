"""Generation: the prompt is processed once, and then one token at a time with the decoder's state (kv cache)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from numbers import Integral, Real
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from model.transformer.inputs import InputError, check_mask, describe, is_integer
from model_factory.diffusion.randomness import Randomness, RowGenerators, upload

if TYPE_CHECKING:
    from model.attention.decoding_state import DecodingState
    from model.transformer.performer import PerformerDecoder


# Options of generation, checked before anything is computed.


@dataclass(frozen=True)
class GenerationOptions:
    """Arguments of `generate` beside the prompt; raises InputError for a value out of range."""

    max_new_tokens: int
    """Maximal number of tokens after the prompt; fewer if every row has ended."""
    temperature: float = 1.0
    """Divisor of the logits before a token is sampled; 0.0 takes the most likely token."""
    top_k: int | None = None
    """Sample from the k most likely tokens alone (Fan et al. 2018, arXiv 1805.04833)."""
    top_p: float | None = None
    """Sample from the most likely tokens of this total probability (Holtzman et al. 2020, arXiv 1904.09751)."""
    num_beams: int = 1
    """With 2 or more: the best continuation that beam search finds, without sampling."""
    eos_token: int | None = None
    """A row ends with this token."""
    pad_token: int | None = None
    """Padding after the end of a row; None: eos_token."""
    length_penalty: float = 0.0
    """Beam search ranks by log-probability / length ** length_penalty; 0.0: by the log-probability itself."""
    generator: Randomness = None
    """Random generator, or a stream for each row, whose draws do not depend on the other rows; None: torch's global one."""
    watch: Callable[[Tensor], object] | None = None
    """Called with the new tokens int64 [B, T] after each of them; in beam search with those of the best beam so far."""

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise InputError(problem)

    @property
    def padding(self) -> int:
        """Padding after the end of a row."""
        return (self.eos_token or 0) if self.pad_token is None else self.pad_token

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raise InputError for a token that is not among the ids 0..vocab_size-1."""
        for name, token in (("eos_token", self.eos_token), ("pad_token", self.pad_token)):
            if token is not None and not (_is_int(token) and 0 <= token < vocab_size):
                raise InputError(f"{name} must be a token id, an integer from 0 to {vocab_size - 1}; got {token!r}")

    def _problems(self) -> Iterator[str]:
        for name in ("max_new_tokens", "num_beams", "top_k"):
            value = getattr(self, name)
            if not (_is_int(value) and value >= 1) and not (name == "top_k" and value is None):
                yield f"{name} must be an integer of at least 1; got {value!r}"
        if not _is_number(self.temperature) or self.temperature < 0:
            yield f"temperature must be a number of at least 0.0 (0.0 is greedy); got {self.temperature!r}"
        if self.top_p is not None and not (_is_number(self.top_p) and 0 < self.top_p <= 1):
            yield f"top_p must be a probability above 0.0 and up to 1.0; got {self.top_p!r}"
        if not _is_number(self.length_penalty):
            yield f"length_penalty must be a number; got {self.length_penalty!r}"
        yield from self._clashes()

    def _clashes(self) -> Iterator[str]:
        if self.num_beams == 1 and self.length_penalty:
            yield f"length_penalty {self.length_penalty} ranks beams, and num_beams is 1; set num_beams to 2 or more"
        if self.num_beams > 1:
            for name in ("top_k", "top_p"):
                if getattr(self, name) is not None:
                    yield f"{name} needs sampling, and beam search (num_beams {self.num_beams}) has none; leave it out"
            if self.temperature not in (0.0, 1.0):
                yield (
                    f"temperature {self.temperature} needs sampling, and beam search (num_beams {self.num_beams}) "
                    "has none; leave it out"
                )


def _is_int(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)


# Beam search (Graves 2012, arXiv 1211.3711, section 3): keep the best `num_beams` continuations.


@dataclass(frozen=True)
class Beams:
    """K continuations of each of B rows, best first."""

    tokens: Tensor
    """[B, K, T]."""
    scores: Tensor
    """Summed log-probabilities [B, K]; -inf while there are fewer than K different ones."""
    lengths: Tensor
    """Number of tokens, the end token included [B, K]."""
    ended: Tensor
    """Bool [B, K]."""


def beam_search(
    decoder: "PerformerDecoder", logits: Tensor, state: "DecodingState", options: GenerationOptions
) -> Tensor:
    """Return the best continuation found, int64 [B, T], from `logits` [B, V]; it ends with eos_token or has T tokens.

    A finished continuation stays among the K while its rank allows. With K at least V^(T-1) nothing is pruned, and the
    result is the global optimum.
    """
    batch, count = logits.shape[0], options.num_beams
    first_rows = torch.arange(batch, device=logits.device).unsqueeze(1)  # [B, 1]
    state.select(first_rows.expand(-1, count).flatten())
    logits = logits.repeat_interleave(count, dim=0)
    beams = _start_beams(batch, count, logits.device)
    for step in range(options.max_new_tokens):
        beams, parents = _extend_beams(beams, logits.view(batch, count, -1), options)
        if options.watch is not None:
            options.watch(beams.tokens[:, 0])
        if step + 1 == options.max_new_tokens or bool(beams.ended.all()):
            break
        # The beams of a row share its context, which needs no reordering.
        state.select((first_rows * count + parents).flatten(), context=False)
        logits = decoder.step(beams.tokens[:, :, -1].reshape(-1, 1), state)
    return beams.tokens[:, 0]


def _start_beams(batch: int, count: int, device: torch.device) -> Beams:
    """Return empty continuations; all but one of a row have the score -inf, since they are the same."""
    scores = torch.full((batch, count), -torch.inf, device=device)
    scores[:, 0] = 0.0
    lengths = torch.zeros(batch, count, dtype=torch.long, device=device)
    return Beams(lengths.new_empty(batch, count, 0), scores, lengths, lengths.bool())


def _extend_beams(beams: Beams, logits: Tensor, options: GenerationOptions) -> tuple[Beams, Tensor]:
    """Extend by one token from logits [B, K, V]; return the best K and the parent index of each [B, K]."""
    log_probs = logits.float().log_softmax(-1)
    only_padding = torch.full_like(log_probs[0, 0], -torch.inf)
    only_padding[options.padding] = 0.0
    log_probs = torch.where(beams.ended.unsqueeze(-1), only_padding, log_probs)
    totals = beams.scores.unsqueeze(-1) + log_probs  # [B, K, V]
    lengths = beams.lengths + ~beams.ended
    ranks = totals / lengths.unsqueeze(-1) ** options.length_penalty
    best = ranks.flatten(1).topk(beams.scores.shape[1], dim=1).indices  # [B, K]
    parents, tokens = best // logits.shape[-1], best % logits.shape[-1]
    ended = beams.ended.gather(1, parents)
    if options.eos_token is not None:
        ended = ended | (tokens == options.eos_token)
    before = beams.tokens.gather(1, parents.unsqueeze(-1).expand(-1, -1, beams.tokens.shape[-1]))
    return Beams(
        torch.cat([before, tokens.unsqueeze(-1)], dim=-1),
        totals.flatten(1).gather(1, best),
        lengths.gather(1, parents),
        ended,
    ), parents


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
        if isinstance(options.generator, RowGenerators):
            return _choose_by_row(logits, options.generator)
        return torch.multinomial(logits.softmax(-1), 1, generator=options.generator).squeeze(1)
    except RuntimeError as error:
        if torch.isfinite(logits.amax(-1)).all():
            raise
        raise InputError(_NOT_FINITE) from error


_NOT_FINITE = "the model's logits are not finite: its weights are damaged, or its training diverged"


def _choose_by_row(logits: Tensor, streams: RowGenerators) -> Tensor:
    """Sample a token int64 [B] from each row of logits [B, V] with that row's stream, by the inverse of its distribution."""
    if not torch.isfinite(logits.amax(-1)).all():
        raise InputError(_NOT_FINITE)
    cumulative = logits.double().softmax(-1).cumsum(-1)
    total = cumulative[:, -1:]
    draws = upload(streams.rand(1), total.device)
    target = torch.minimum(draws * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target, right=True).squeeze(1)


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
        if options.watch is not None:
            options.watch(torch.stack(new, dim=1))
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
    if isinstance(options.generator, RowGenerators):
        if len(options.generator) != len(tokens):
            raise InputError(f"generator has {len(options.generator)} streams, and there are {len(tokens)} prompts")
    elif options.generator is not None and options.generator.device.type != device:
        given = options.generator.device.type
        raise InputError(f"generator is on {given}, and the model on {device}; use torch.Generator({device!r})")
    if not is_integer(tokens) or tokens.dim() != 2:
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
