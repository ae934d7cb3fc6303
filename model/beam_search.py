"""Beam search (Graves 2012, arXiv 1211.3711, section 3): keep the best `num_beams` continuations."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model.generation_options import GenerationOptions

if TYPE_CHECKING:
    from model.decoding_state import DecodingState
    from model.transformer import PerformerDecoder


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
