"""Random streams against SplitMix64 in Python integers, and its published values."""

import pytest
import torch

from model_factory.diffusion.randomness import RowGenerators, hash_words, normal, to_unit_interval, uniform
from model_factory.diffusion.time_strata import stratified_times

WORD = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
PUBLISHED = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
"""Values for the state 1234567 (Steele et al. 2014; test values of Rosetta Code)."""


def mixed(word: int) -> int:
    word &= WORD
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & WORD
    return word ^ (word >> 31)


def signed(word: int) -> int:
    word &= WORD
    return word - (1 << 64) if word >> 63 else word


def upper(word: int) -> float:
    return ((word & WORD) >> 11) / 2**53


def test_stream_is_splitmix64() -> None:
    rows = RowGenerators(torch.tensor([1234567, -3]))
    drawn = torch.cat([rows.rand(2, 1)[..., 0], rows.rand(3)], 1)
    assert [mixed(1234567 + (i + 1) * GOLDEN) for i in range(5)] == PUBLISHED
    assert drawn[0].tolist() == [upper(word) for word in PUBLISHED]
    assert drawn[1].tolist() == [upper(mixed(-3 + (i + 1) * GOLDEN)) for i in range(5)]
    assert rows.counter == 5
    assert rows.rand(2, 3).shape == (2, 2, 3)
    assert len(rows) == 2
    words = [0, 1, -1, 1 << 62, -(1 << 63)]
    assert hash_words(torch.tensor(words)).tolist() == [signed(mixed(word)) for word in words]
    assert to_unit_interval(torch.tensor([0, -1, 2047, 2048])).tolist() == [0.0, 1 - 2.0**-53, 0.0, 2.0**-53]


@pytest.mark.parametrize("seed", [0, 7, -1, 2**63 - 1, 2**63, -(2**63), 2**64 + 9, -(2**70) - 5])
def test_stream_key_from_seed_and_row(seed: int) -> None:
    """Any integer is a valid seed; only its lower 64 bits are used."""
    for dtype in (torch.int64, torch.int32):
        rows = RowGenerators.from_seed(seed, torch.tensor([0, 1, 1000], dtype=dtype))
        expected = [signed(mixed(mixed(seed) + row * GOLDEN)) for row in (0, 1, 1000)]
        assert rows.keys.tolist() == expected
        assert rows.counter == 0


def test_generator_seeds_rows_over_all_int64() -> None:
    rows = RowGenerators.from_generator(torch.Generator().manual_seed(5), 3)
    seeds = torch.randint(-(2**63), 2**63 - 1, (3,), generator=torch.Generator().manual_seed(5))
    assert rows.keys.tolist() == [signed(mixed(seed)) for seed in seeds.tolist()]
    torch.manual_seed(3)
    first = RowGenerators.from_generator(None, 2).keys
    torch.manual_seed(3)
    assert torch.equal(first, RowGenerators.from_generator(None, 2).keys)


def test_torch_generators_draw_as_torch() -> None:
    one, other = (torch.Generator().manual_seed(1) for _ in range(2))
    assert torch.equal(uniform([2, 3], one), torch.rand(2, 3, dtype=torch.float64, generator=other))
    for dtype in (torch.float32, torch.float64):
        drawn = normal([2, 3], one, dtype=dtype)
        assert torch.equal(drawn, torch.randn(2, 3, dtype=dtype, generator=other))
    assert normal([2, 3], None).dtype == torch.float64
    uniforms = RowGenerators(torch.tensor([4, 5])).rand(3)
    wanted = torch.distributions.Normal(0.0, 1.0).icdf(uniforms)
    torch.testing.assert_close(normal([2, 3], RowGenerators(torch.tensor([4, 5]))), wanted, rtol=1e-9, atol=1e-12)


def test_strata_match_formula_from_two_draws() -> None:
    """Both are computed from the seed; the salt separates them from noise of the same seed."""
    seed, size = 11, 6

    def draw(row: int) -> float:
        return upper(mixed(mixed(mixed(seed ^ 0x74696D6573) + row * GOLDEN) + GOLDEN))

    order = sorted(range(size), key=draw)
    rows = torch.tensor([5, 0, 3])
    for t_min in (0.0, 0.25):
        expected = [t_min + (1 - t_min) * (order[row] + 1 - draw(row + size)) / size for row in rows.tolist()]
        found = stratified_times(rows, size, seed, t_min)
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-14, atol=0)
    assert stratified_times(rows, size, seed, 0.999).min() > 0.999


def test_stream_with_a_width_does_not_depend_on_padding() -> None:
    keys = torch.tensor([5, -9])
    short, long = (RowGenerators(keys, width=100) for _ in range(2))
    for shape in ((3,), (2, 3), (3, 2), (1,)):
        padded = tuple(size + 4 if size == 3 else size for size in shape)
        drawn, more = short.rand(*shape), long.rand(*padded)
        assert torch.equal(drawn, more[(slice(None), *map(slice, shape))])
    assert short.counter == long.counter
    every = torch.cat([RowGenerators(keys, width=4).rand(3, 2).flatten(1), RowGenerators(keys).rand(3)], 1)
    assert len(set(every[0].tolist())) == 6 + 1  # the first numbers of a stream are those without a width
    assert torch.equal(RowGenerators(keys, width=4).rand(3), RowGenerators(keys).rand(3))
    assert RowGenerators(keys, 0, 100)[:1].width == 100
