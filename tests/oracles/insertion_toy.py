"""Toy languages of all strings of a few letters, for objectives that insert tokens; every sum is enumerated.

Nothing here uses the code under test: embeddings of a shortened string are listed one by one, and the generator's rates
come from Bayes' rule over all strings.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise, product

import torch
from torch import Tensor

from model_factory.diffusion.randomness import RowGenerators
from model_factory.diffusion.samplers.insertion import InsertionSampler
from model_factory.diffusion.samplers.state import SamplerState

ABSENT = -1
Embedding = tuple[int, ...]


@dataclass(frozen=True)
class InsertionToy:
    """Distribution over all strings of at most `longest` of `letters` letters, the empty one among them."""

    letters: int
    longest: int
    probs: Tensor

    @classmethod
    def random(cls, seed: int, letters: int, longest: int) -> "InsertionToy":
        """Draw a distribution from a Dirichlet of 1."""
        generator = torch.Generator().manual_seed(seed)
        count = sum(letters**length for length in range(longest + 1))
        weights = -torch.rand(count, generator=generator, dtype=torch.float64).log()
        return cls(letters, longest, weights / weights.sum())

    @property
    def mask(self) -> int:
        return self.letters

    @cached_property
    def entropy(self) -> float:
        return float(-(self.probs * self.probs.log()).sum())

    @cached_property
    def strings(self) -> Tensor:
        """All strings, int [S, longest], which end in ABSENT."""
        return strings_of(self.letters, self.longest)

    @cached_property
    def states(self) -> Tensor:
        """All strings of letters and masks, int [states, longest]."""
        return strings_of(self.letters + 1, self.longest)

    @cached_property
    def embeddings(self) -> list[list[list[Embedding]]]:
        """For each state and string the positions at which the state's tokens fit the string."""
        strings = [text_of(row) for row in self.strings]
        return [[embeddings_of(text_of(state), text, self.mask) for text in strings] for state in self.states]

    @cached_property
    def ways(self) -> Tensor:
        """Number of embeddings of each state in each string, [states, S]."""
        return torch.tensor([[len(found) for found in row] for row in self.embeddings], dtype=torch.float64)

    def likelihood(self, missing: float) -> Tensor:
        """Return p(state | string), [states, S], where a token is missing with probability `missing`."""
        masked = -missing * math.log(missing)
        masks, tokens = (
            found.double().sum(1, keepdim=True) for found in (self.states == self.mask, self.states != ABSENT)
        )
        clean = 1 - missing - masked
        return self.ways * masked**masks * clean ** (tokens - masks) * missing**self.lost

    @cached_property
    def lost(self) -> Tensor:
        """Number of tokens of each string that are missing in each state, [states, S] float64; 0 if it is negative."""
        tokens = (self.states != ABSENT).sum(1, keepdim=True)
        return ((self.strings != ABSENT).sum(1) - tokens).clamp_min(0).double()

    def oracle(self, missing: float) -> tuple[Tensor, Tensor]:
        """Return the exact distributions at every state: of tokens [states, longest, letters], of gaps [.., longest + 1]."""
        weights = self.ways * missing**self.lost * self.probs  # the factors of masks and clean tokens cancel
        posterior = weights / weights.sum(1, keepdim=True)
        tokens, gaps = self.conditionals
        return torch.einsum("xs,xsiv->xiv", posterior, tokens), torch.einsum("xs,xsik->xik", posterior, gaps)

    @cached_property
    def conditionals(self) -> tuple[Tensor, Tensor]:
        """Distributions given state and string: of tokens [states, S, longest, letters], of gaps [.., longest + 1, longest + 1]."""
        shape, width = (len(self.states), len(self.strings)), self.longest + 1
        tokens = torch.zeros(*shape, self.longest, self.letters, dtype=torch.float64)
        gaps = torch.zeros(*shape, width, width, dtype=torch.float64)
        for row, per_string in enumerate(self.embeddings):
            for column, (found, text) in enumerate(zip(per_string, map(text_of, self.strings), strict=True)):
                for places in found:
                    share = 1 / len(found)
                    for index, place in enumerate(places):
                        tokens[row, column, index, text[place]] += share
                    for index, size in enumerate(gap_sizes(places, len(text))):
                        gaps[row, column, index, size] += share
        return tokens, gaps

    def output(self, missing: float) -> Tensor:
        """Return the outputs of the exact network at every state, with gaps as counts: [states, longest + 1, ...]."""
        tokens, gaps = self.oracle(missing)
        empty = torch.full((len(tokens), self.longest, 1), -torch.inf, dtype=torch.float64)
        logits = torch.cat([tokens.log(), empty], -1)
        anchor = torch.zeros(len(tokens), 1, self.letters + 1, dtype=torch.float64)
        sizes = torch.arange(self.longest + 1, dtype=torch.float64)
        # No state and gap of the toy is left without a distribution: a network has logits there too.
        gaps = torch.where(gaps.sum(-1, keepdim=True) > 0, gaps, 1 / (self.longest + 1))
        return torch.cat([torch.cat([anchor, logits], 1), gaps.log() - sizes * math.log(missing)], -1)


def strings_of(letters: int, longest: int) -> Tensor:
    """Return all strings of at most `longest` letters, int [S, longest], which end in ABSENT."""
    found = [text for length in range(longest + 1) for text in product(range(letters), repeat=length)]
    return torch.tensor([[*text, *[ABSENT] * (longest - len(text))] for text in found])


def text_of(row: Tensor) -> list[int]:
    """Return the tokens of a row without its end."""
    return [token for token in row.tolist() if token != ABSENT]


def embeddings_of(state: list[int], text: list[int], mask: int) -> list[Embedding]:
    """List all positions at which the tokens of a state fit a text, in order."""
    return [
        places
        for places in combinations(range(len(text)), len(state))
        if all(token in (mask, text[place]) for token, place in zip(state, places, strict=True))
    ]


def gap_sizes(places: Embedding, length: int) -> list[int]:
    """Return the number of missing tokens before each position, and after the last."""
    ends = (-1, *places, length)
    return [after - before - 1 for before, after in pairwise(ends)]


def propagate(toy: InsertionToy, sampler: InsertionSampler) -> Tensor:
    """Return the distribution of a sampler's output over all states, [states], from the empty row."""
    rows = len(toy.states)
    state = SamplerState(
        tokens=toy.states,
        t=torch.ones(rows, dtype=torch.float64),
        generators=RowGenerators.from_seed(0, torch.arange(rows)),
        frozen=torch.zeros_like(toy.states, dtype=torch.bool),
        network_calls=torch.zeros(rows, dtype=torch.int64),
    )
    probs = torch.zeros(rows, dtype=torch.float64)
    probs[0] = 1.0
    tables = [_insertion_table(toy, length) for length in range(toy.longest + 1)]
    for _ in range(sampler.steps):
        proposal, inserted = sampler.transitions(state)
        kernel = _kernel(toy, proposal.probabilities(toy.states.clamp_min(0)), inserted, tables)
        assert torch.allclose(kernel.sum(1), torch.ones(rows, dtype=torch.float64), atol=1e-12)
        probs = probs @ kernel
        state = sampler.advance(state, state.tokens, torch.zeros_like(state.network_calls))
    return probs


def _kernel(toy: InsertionToy, tokens: Tensor, inserted: Tensor, tables: list[Tensor]) -> Tensor:
    """Return K [states, states] from the distributions of each token [states, longest, dim] and gap [.., longest + 1, K]."""
    kernel = torch.zeros(len(toy.states), len(toy.states), dtype=torch.float64)
    sizes = (toy.states != ABSENT).sum(1)
    inserted = torch.nn.functional.pad(inserted, (0, toy.longest + 1 - inserted.shape[-1]))
    for length, table in enumerate(tables):
        rows = (sizes == length).nonzero()[:, 0]
        gaps, texts = (torch.ones(len(rows), 1, dtype=torch.float64) for _ in range(2))
        for index in range(length + 1):
            gaps = (gaps[:, :, None] * inserted[rows, index, None]).flatten(1)
        for index in range(length):
            texts = (texts[:, :, None] * tokens[rows, index, None]).flatten(1)
        joint = (gaps[:, :, None] * texts[:, None]).flatten(1)
        kernel[rows] = torch.zeros(len(rows), len(toy.states), dtype=torch.float64).index_add(1, table.flatten(), joint)
    return kernel


def _insertion_table(toy: InsertionToy, length: int) -> Tensor:
    """Return the state that follows from the sizes of all gaps and from all texts of a length, [sizes, texts]."""
    index = {tuple(row): number for number, row in enumerate(toy.states.tolist())}
    found = []
    for sizes in product(range(toy.longest + 1), repeat=length + 1):
        for text in product(range(toy.letters + 1), repeat=length):
            room, row = toy.longest - length, []
            for size, token in zip(sizes, (*text, None), strict=True):
                row += [toy.mask] * min(size, room) + ([token] if token is not None else [])
                room -= min(size, room)
            found.append(index[(*row, *[ABSENT] * (toy.longest - len(row)))])
    return torch.tensor(found).reshape((toy.longest + 1) ** (length + 1), -1)
