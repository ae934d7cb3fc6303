"""Log-likelihoods of answers by a discrete diffusion model: a bound with draws, or the chain rule along an order.

bound   by the parts of the objective, of an answer given its context: under absorbing noise by counts, k masks on 1..n, whose
        mean is that of the chain rule over all orders of the answer's tokens, otherwise at random times. Its mean is at most
        the log of the mixture over orders. Draws are stratified, and keyed by the text.
chain   one token a call along one order, which is exact for that order: the probabilities of all texts of n tokens sum to 1.
        It needs masks.

Neither is the distribution of a sampler of few steps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from math import fsum, sqrt
from typing import Any, Literal

import torch
from torch import Tensor

from data_manager.progress import progress_bar
from model.discrete.model import DiffusionModel
from model_factory.diffusion.objectives.losses import Objective, SubsLoss
from model_factory.diffusion.randomness import ROW_WIDTH, RowGenerators
from model_factory.evaluation.run import LoadedRun
from model_factory.interop.token_scores import Pair, Score, text_key
from model_factory.training.errors import UnfitError

Order = Literal["left", "random"]
_CHAIN, _LIMIT = -1, -2


@dataclass(frozen=True)
class _Row:
    """One row of a network call: the number of its pair, its tokens up to the end of the answer, and its draw."""

    number: int
    pair: Pair
    draw: int = 0


class _DenoiserScorer:
    """Network calls of both ways to score; rows of one length share a call, so that none is padded.

    `canvas` is the number of tokens of a row of a run that fills rows with end tokens, 0 for other runs: the positions after an
    answer are masked then, which leaves open what follows.
    """

    def __init__(self, run: LoadedRun, max_length: int, batch_size: int, seed: int, canvas: int = 0) -> None:
        assert isinstance(run.model, DiffusionModel)
        self.model, self.limit, self.batch_size, self.seed = run.model, max_length, batch_size, seed
        self.process, self.graph = run.model.process, run.model.process.graph
        self.canvas = canvas if self.graph.absorbing else 0

    def _batches(self, pairs: Sequence[Pair], counts: Sequence[int]) -> Iterator[list[_Row]]:
        """Yield rows in batches of one length, the longest first; pair i has `counts[i]` rows."""
        order = sorted(range(len(pairs)), key=lambda number: -len(pairs[number]))
        with progress_bar("answers", sum(counts), "row") as track:
            for _, same in groupby(order, key=lambda number: len(pairs[number])):
                rows = (_Row(number, pairs[number], draw) for number in same for draw in range(counts[number]))
                while batch := list(islice(rows, self.batch_size)):
                    yield batch
                    track(len(batch))

    def _tensors(self, rows: Sequence[_Row]) -> tuple[Tensor, Tensor]:
        """Return the tokens int64 [B, L] of rows, masks after the answers of filled ones, and bool [B, L] of the answers."""
        length, begins = len(rows[0].pair), torch.tensor([len(row.pair.context) for row in rows])
        ids = torch.full((len(rows), max(length, self.canvas)), self.graph.mask_token or 0)
        ids[:, :length] = torch.tensor([[*row.pair.context, *row.pair.answer] for row in rows])
        places = torch.arange(ids.shape[1])
        is_answer = (places >= begins[:, None]) & (places < length)
        return ids.to(self.model.device), is_answer.to(self.model.device)

    def _denoise(self, is_answer: Tensor) -> Any:
        """Return the network as objectives call it, for rows whose other tokens are given."""
        given = None if bool(is_answer.all()) else ~is_answer
        return lambda x_t, sigma: self.model.denoise(x_t, self.graph.conditioning_level(sigma, given))

    def _log_x0(self, x_t: Tensor, sigma: Tensor, x_0: Tensor, is_answer: Tensor, chosen: Any) -> Tensor:
        """Call the network for x_t [B, L] at sigma [B]; return log p(x_0) [n, dim] at the n `chosen` positions."""
        output = self.model.objective.predict(self._denoise(is_answer), x_t, sigma, x_0)
        levels = sigma[:, None].expand(x_t.shape)
        return self.model.objective.parameterisation.log_x0(output[chosen], x_t[chosen], levels[chosen])

    def _keys(self, rows: Sequence[_Row], *words: int) -> RowGenerators:
        """Return a stream for each row, by its text, its draw and the seed."""
        keys = [text_key(self.seed, row.pair, row.draw, *words) for row in rows]
        return RowGenerators(torch.tensor(keys, device=self.model.device), width=ROW_WIDTH)


class BoundScorer(_DenoiserScorer):
    """Scores by the bound of the objective, from `draws` draws of the noise for each answer.

    An answer of one token has one draw if the network is not conditioned on the noise level, as all draws are equal.
    `is_greedy` is of one call with the whole answer noised, from masks to the likeliest token of each position.
    """

    def __init__(
        self, run: LoadedRun, max_length: int, batch_size: int, *, draws: int, seed: int = 0, canvas: int = 0
    ) -> None:
        super().__init__(run, max_length, batch_size, seed, canvas)
        self.draws = draws
        self.counted: Objective | None = self.model.objective.by_counts()

    @torch.no_grad()
    def score(self, pairs: Sequence[Pair]) -> list[Score]:
        """Return the bound of each pair, its standard error, and whether the answer is greedy."""
        values: dict[int, list[float]] = {number: [] for number in range(len(pairs))}
        for batch in self._batches(pairs, [self._draws_of(pair) for pair in pairs]):
            for row, nats in zip(batch, self._nats(batch), strict=True):
                values[row.number].append(-nats)
        greedy: dict[int, bool] = {}
        for batch in self._batches(pairs, [1] * len(pairs)):
            greedy.update(zip((row.number for row in batch), self._are_greedy(batch), strict=True))
        return [self._join(pair, values[number], greedy[number]) for number, pair in enumerate(pairs)]

    def _draws_of(self, pair: Pair) -> int:
        return 1 if self._is_exact(pair) else self.draws

    def _is_exact(self, pair: Pair) -> bool:
        """Return True for an answer whose draws are all equal."""
        is_counted = isinstance(self.counted, SubsLoss) and not self.counted.noise_draw.has_ends
        return len(pair.answer) == 1 and is_counted and not self.model.diffusion_config.is_time_conditioned

    def _join(self, pair: Pair, values: list[float], is_greedy: bool) -> Score:
        mean = fsum(values) / len(values)
        if len(values) == 1:
            return Score(mean, is_greedy, 0.0 if self._is_exact(pair) else None)
        variance = fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
        return Score(mean, is_greedy, sqrt(variance / len(values)))

    def _nats(self, rows: Sequence[_Row]) -> list[float]:
        """Draw the noise of each row in the stratum of its draw; return the parts of the bound, summed over the answers."""
        ids, is_answer = self._tensors(rows)
        shares = torch.tensor([self._draws_of(row.pair) for row in rows], dtype=torch.float64, device=ids.device)
        draws = torch.tensor([row.draw for row in rows], device=ids.device)
        times = (draws + 1 - self._keys(rows, _LIMIT).rand(1)[:, 0]) / shares
        objective = self.counted or self.model.objective
        parts = objective.parts(
            self._denoise(is_answer),
            ids,
            self.model.times(times, ids, objective=objective),
            self._keys(rows),
            ~is_answer,
        )
        found: list[float] = parts.total.sum(1).tolist()
        return found

    def _are_greedy(self, rows: Sequence[_Row]) -> list[bool]:
        ids, is_answer = self._tensors(rows)
        limit = self.graph.sample_limit(ids.shape, self._keys(rows, _LIMIT, _LIMIT), ids.device)
        x_t = torch.where(is_answer, limit, ids)
        sigma = self.process.schedule.sigma(torch.ones(len(ids), dtype=torch.float64, device=ids.device))
        likeliest = ids.clone()
        likeliest[is_answer] = self._log_x0(x_t, sigma, ids, is_answer, is_answer).argmax(-1)
        found: list[bool] = (likeliest == ids).all(1).tolist()
        return found


class ChainScorer(_DenoiserScorer):
    """Scores by the chain rule: tokens are revealed one after another, and each costs its log-probability.

    The order is from the left, or drawn for each context and length; a model that writes blocks keeps their order. A network
    that is conditioned on the noise level gets the one at which k of n tokens are masked on average. Raises UnfitError for
    noise without masks.
    """

    def __init__(
        self, run: LoadedRun, max_length: int, batch_size: int, *, order: Order = "left", seed: int = 0, canvas: int = 0
    ) -> None:
        super().__init__(run, max_length, batch_size, seed, canvas)
        if not self.graph.absorbing:
            raise UnfitError(
                f"{run.folder}: the chain rule reveals masks one after another, and the noise of this run has none; use "
                "likelihood=bound"
            )
        self.order = order

    @torch.no_grad()
    def score(self, pairs: Sequence[Pair]) -> list[Score]:
        """Return the log-likelihood of each pair along its order; `is_greedy` if each token is the likeliest at its turn."""
        terms: dict[int, list[float]] = {number: [] for number in range(len(pairs))}
        greedy = dict.fromkeys(terms, True)
        orders = [self._order(pair) for pair in pairs]
        for batch in self._batches(pairs, [len(pair.answer) for pair in pairs]):
            for row, nats, is_likeliest in zip(batch, *self._turns(batch, orders), strict=True):
                terms[row.number].append(nats)
                greedy[row.number] &= is_likeliest
        return [Score(fsum(terms[number]), greedy[number]) for number in range(len(pairs))]

    def _order(self, pair: Pair) -> list[int]:
        """Return the positions of an answer in the order in which they are revealed."""
        places = torch.arange(len(pair.context), len(pair))
        if self.order == "random":
            length_alone = Pair(pair.context, (0,) * len(pair.answer))  # one order for all texts of a length
            streams = RowGenerators(torch.tensor([text_key(self.seed, length_alone, _CHAIN)]))
            places = places[streams.rand(len(pair.answer))[0].argsort()]
            if self.model.block_size is not None:
                places = places[(places // self.model.block_size).argsort(stable=True)]
        found: list[int] = places.tolist()
        return found

    def _turns(self, rows: Sequence[_Row], orders: Sequence[Sequence[int]]) -> tuple[list[float], list[bool]]:
        """Return the log-probability of the token that each row reveals at its turn, and whether it is the likeliest."""
        ids, is_answer = self._tensors(rows)
        x_t, shares = ids.clone(), []
        for index, row in enumerate(rows):
            hidden = orders[row.number][row.draw :]
            x_t[index, torch.tensor(hidden, device=ids.device)] = self.graph.dim - 1  # the mask
            shares.append(self._masked_share(orders[row.number], row.draw))
        turns = torch.tensor([orders[row.number][row.draw] for row in rows], device=ids.device)
        low, high = (float(self.process.schedule.sigma(end)) for end in (0.0, 1.0))
        masked = torch.tensor(shares, dtype=torch.float64, device=ids.device)
        sigma = (-torch.log1p(-masked)).clamp(low, high)
        each = torch.arange(len(ids), device=ids.device)
        log_x_0, truth = self._log_x0(x_t, sigma, ids, is_answer, (each, turns)), ids[each, turns]
        nats = log_x_0.gather(1, truth[:, None])[:, 0]
        return nats.tolist(), (log_x_0.argmax(-1) == truth).tolist()

    def _masked_share(self, order: Sequence[int], turn: int) -> float:
        """Return k / (n + 1) for the k masks left of n at a turn, in the current block where the model writes blocks."""
        size = self.model.block_size
        in_block = [size is None or place // size == order[turn] // size for place in order]
        return sum(in_block[turn:]) / (sum(in_block) + 1)
