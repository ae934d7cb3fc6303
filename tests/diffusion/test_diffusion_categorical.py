"""Categorical draws: the cumulative distribution function is inverted exactly in float64."""

import pytest
import torch

from model_factory.diffusion.categorical import invert_distribution, sample_categorical
from model_factory.diffusion.errors import ProbabilityError, ShapeError
from model_factory.diffusion.randomness import RowGenerators


@pytest.mark.parametrize("size", [2, 10, 1024, 1025, 4097])
@pytest.mark.parametrize("rare", [1e-7, 1e-10, 1e-15])
def test_categorical_draws_rare_tokens_exactly(size: int, rare: float) -> None:
    """Token 0 of probability `rare` is drawn exactly by the uniforms below it."""
    probs = torch.full((size,), (1 - rare) / (size - 1), dtype=torch.float64)
    probs[0] = rare
    total = float(probs.sum())
    uniforms = torch.tensor([0.0, 0.5 * rare, 0.999 * rare, 1.001 * rare, 2 * rare], dtype=torch.float64) / total
    drawn = invert_distribution(probs.expand(5, -1), uniforms)
    assert (drawn == 0).tolist() == [True, True, True, False, False]


@pytest.mark.parametrize("size", [3, 100, 1024, 1025, 30522])
def test_categorical_boundaries_are_exact(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    counts = torch.randint(1, 50, (size,), generator=generator)
    counts[torch.randperm(size, generator=generator)[: size // 3]] = 0  # impossible tokens, also at the ends
    counts[size // 2] = 1
    edges = counts.cumsum(0)
    total = int(edges[-1])
    # Sums of integers are exact, so draws just below a boundary and at it must differ.
    targets = torch.unique(torch.cat([edges[:-1], (edges - 1).clamp_min(0)]))
    targets = targets[targets < total]
    inside = (targets.double() + 0.25) / total
    expected = torch.searchsorted(edges, targets, right=True)
    drawn = invert_distribution(counts.double().expand(len(targets), -1), inside)
    assert torch.equal(drawn, expected)
    assert bool((counts[drawn] > 0).all())


@pytest.mark.parametrize("size", [5, 1500])
def test_categorical_never_draws_impossible_token(size: int) -> None:
    probs = torch.rand(50, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ends = size // 5
    probs[:, :ends] = probs[:, -ends:] = 0
    zeros = torch.zeros(50, dtype=torch.float64)
    assert bool((invert_distribution(probs, zeros) == ends).all())
    assert bool((invert_distribution(probs, zeros + 1 - 2.0**-53) == size - ends - 1).all())


def test_categorical_shapes_dtypes_and_generators() -> None:
    probs = torch.rand(4, 5, 6, dtype=torch.float32)
    first = sample_categorical(probs, torch.Generator().manual_seed(1))
    assert first.shape == (4, 5)
    assert torch.equal(first, sample_categorical(probs.double(), torch.Generator().manual_seed(1)))
    rows = RowGenerators.from_seed(3, torch.arange(4))
    whole = sample_categorical(probs, rows)
    alone = sample_categorical(probs[2:3], RowGenerators.from_seed(3, torch.tensor([2])))
    assert torch.equal(whole[2:3], alone)
    assert sample_categorical(torch.tensor([0.0, 1.0, 0.0])).item() == 1


@pytest.mark.parametrize("bad", [[0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0], [-2.0, 1.0]])
def test_categorical_refuses_invalid_weights(bad: list[float]) -> None:
    with pytest.raises(ProbabilityError, match="probs"):
        sample_categorical(torch.tensor(bad))


def test_categorical_uniforms_must_match_shape() -> None:
    with pytest.raises(ShapeError, match="uniforms"):
        invert_distribution(torch.ones(3, 4), torch.zeros(2, dtype=torch.float64))
