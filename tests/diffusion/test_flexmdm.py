"""FlexMDM on toy languages of all strings of a few letters: alignments, the tight bound, its gradients, the samplers."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from model_factory.diffusion.errors import LengthError, SettingError, ShapeError
from model_factory.diffusion.objectives.alignment import ABSENT, align, gaps_between
from model_factory.diffusion.objectives.insertion import FlexMdmLoss, InsertionParts
from model_factory.diffusion.objectives.losses import SubsLoss
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.processes.graph import AbsorbingGraph
from model_factory.diffusion.processes.noise_schedule import (
    CosineNoise,
    GeometricNoise,
    LinearNoise,
    LogLinearNoise,
    NoiseSchedule,
)
from model_factory.diffusion.randomness import RowGenerators
from model_factory.diffusion.samplers.base import create_sampler
from model_factory.diffusion.samplers.denoiser import Denoiser
from model_factory.diffusion.samplers.insertion import InsertionSampler, insert_masks
from model_factory.diffusion.samplers.sampling import sample
from tests.oracles.diffusion_bounds import quadrature
from tests.oracles.insertion_toy import InsertionToy, embeddings_of, gap_sizes, propagate, text_of

SIZES = [(2, 2), (2, 3), (3, 3), (2, 4)]
"""Letters, and the longest string."""
NODES = list(quadrature(36, power=4))
TOYS = {size: InsertionToy.random(seed, *size) for seed, size in enumerate(SIZES)}
Part = Callable[[FlexMdmLoss, InsertionToy, Tensor, Tensor, Tensor], Tensor]


def objective(toy: InsertionToy, schedule: NoiseSchedule, *, counts: bool = True) -> FlexMdmLoss:
    return FlexMdmLoss(DiffusionProcess(AbsorbingGraph(toy.letters), schedule), counts=counts)


def missing_at(loss: FlexMdmLoss, t: float) -> float:
    return float(loss.parameterisation.missing(loss.schedule.sigma(t)))


def expected(toy: InsertionToy, loss: FlexMdmLoss, t: float, output: Tensor, part: Part) -> Tensor:
    """Return the expectation of a part over all strings and states at time t."""
    joint = toy.likelihood(missing_at(loss, t)) * toy.probs
    rows, columns = (joint > 0).nonzero(as_tuple=True)
    return (joint[rows, columns] * part(loss, toy, output, rows, columns)).sum()


def tight_at(t: float) -> Part:
    def part(loss: FlexMdmLoss, toy: InsertionToy, output: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        times = torch.full((len(rows),), t, dtype=torch.float64)
        return loss.diffusion(output[rows], toy.states[rows], toy.strings[columns], times).sum(1)

    return part


def published_at(t: float) -> Part:
    """Return the loss of Kim et al., averaged over the alignments of a state with a string."""

    def part(loss: FlexMdmLoss, toy: InsertionToy, output: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        tokens, gaps = (one[rows, columns] for one in toy.conditionals)
        sigma = loss.schedule.sigma(torch.full((len(rows),), t, dtype=torch.float64))
        log_p = torch.log_softmax(output[rows, 1:, : toy.letters], -1)
        masked = (toy.states[rows] == toy.mask)[..., None]
        unmasking = -torch.where(masked & (tokens > 0), tokens * log_p, 0.0).sum((1, 2))
        rate = loss.parameterisation.expected_gaps(output[rows], sigma)[..., None]
        sizes = torch.arange(toy.longest + 1, dtype=torch.float64)
        excess = rate - sizes + torch.xlogy(sizes, sizes) - sizes * torch.where(sizes > 0, rate, 1.0).log()
        return loss.weight(torch.tensor(t, dtype=torch.float64)) * (
            unmasking + torch.where(gaps > 0, gaps * excess, 0.0).sum((1, 2))
        )

    return part


def bound(toy: InsertionToy, loss: FlexMdmLoss, part: Callable[[float], Part], fixed: Tensor | None = None) -> float:
    """Integrate a part over time, with the exact network, or with one of `fixed` outputs at all times."""
    total = 0.0
    for t, weight in NODES:
        output = toy.output(missing_at(loss, t)) if fixed is None else fixed
        total += weight * float(expected(toy, loss, t, output, part(t)))
    return total


def best_outputs_without_time(toy: InsertionToy, loss: FlexMdmLoss) -> Tensor:
    """Return the outputs, with expected gaps, that minimise the bound among those which are the same at all times."""
    tokens, gaps, scales = (torch.tensor(0.0, dtype=torch.float64) for _ in range(3))
    for t, weight in NODES:
        missing = missing_at(loss, t)
        states = (toy.likelihood(missing) * toy.probs).sum(1) * weight * float(loss.weight(torch.tensor(t).double()))
        exact_tokens, exact_gaps = toy.oracle(missing)
        sizes = torch.arange(toy.longest + 1, dtype=torch.float64)
        tokens = tokens + states[:, None, None] * exact_tokens
        gaps = gaps + states[:, None] * (exact_gaps * sizes).sum(-1)
        scales = scales + states * missing
    rates = gaps / scales[:, None]
    logits = torch.nn.functional.pad((tokens / tokens.sum(-1, keepdim=True)).log(), (0, 1, 1, 0), value=-torch.inf)
    return torch.cat([logits, rates.expm1().log()[..., None]], -1)


def random_pairs(count: int) -> Iterator[tuple[list[int], list[int]]]:
    """Yield texts of up to seven of two letters, and states that can be embedded in them."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        text = torch.randint(2, (int(torch.randint(8, (), generator=generator)),), generator=generator).tolist()
        kept = torch.randint(4, (len(text),), generator=generator).tolist()
        yield [2 if kind == 1 else token for kind, token in zip(kept, text, strict=True) if kind], text


def test_alignment_equals_enumeration_in_fractions() -> None:
    pairs = list(random_pairs(300))
    x_t, x_0 = (torch.tensor([[*row, *[ABSENT] * (7 - len(row))] for row in rows]) for rows in zip(*pairs, strict=True))
    found = align(x_t, x_0, mask=2)
    assert sum(len(state) > 1 for state, _ in pairs) > 100
    for row, (state, text) in enumerate(pairs):
        ways = embeddings_of(state, text, 2)
        counts = Counter((index, place) for places in ways for index, place in enumerate(places))
        for index in range(7):
            for place in range(7):
                exact = Fraction(counts[index, place], len(ways))
                assert float(found.positions[row, index, place]) == pytest.approx(float(exact), abs=1e-13)
        gaps = [Fraction(sum(sizes), len(ways)) for sizes in zip(*(gap_sizes(p, len(text)) for p in ways), strict=True)]
        assert found.gaps[row].tolist() == pytest.approx([*map(float, gaps), *[0.0] * (7 - len(state))], abs=1e-13)


def test_alignment_of_long_rows_does_not_overflow() -> None:
    x_0 = torch.zeros(1, 1030, dtype=torch.int64)
    x_t = torch.where(torch.arange(1030) < 515, x_0, ABSENT)  # 1030 over 515 embeddings
    found = align(x_t, x_0, mask=1)
    torch.testing.assert_close(found.gaps[0, :516], torch.full((516,), 515 / 516, dtype=torch.float64))


@pytest.mark.parametrize("size", SIZES)
def test_tight_bound_is_the_entropy_and_published_form_lies_above(size: tuple[int, int]) -> None:
    toy = TOYS[size]
    loss = objective(toy, CosineNoise(0.0))
    assert bound(toy, loss, tight_at) == pytest.approx(toy.entropy, abs=1e-9)
    assert 0.3 < bound(toy, loss, published_at) - toy.entropy < 2.0  # 0.47 to 1.5 nats on other languages


@pytest.mark.parametrize(
    "schedule", [LogLinearNoise(0.0), LogLinearNoise(1e-3), GeometricNoise(1e-3, 9.0), LinearNoise()]
)
def test_bound_is_the_entropy_under_every_schedule(schedule: NoiseSchedule) -> None:
    """Schedules that end before all tokens are noise, or begin after some are, are rescaled."""
    toy = TOYS[2, 2]
    loss, total = objective(toy, schedule), 0.0
    for t, weight in quadrature(60, power=4):
        total += weight * float(expected(toy, loss, t, toy.output(missing_at(loss, t)), tight_at(t)))
    assert total == pytest.approx(toy.entropy, abs=1e-9)
    assert (missing_at(loss, 0.0), missing_at(loss, 1.0)) == pytest.approx((0.0, 1.0), abs=1e-15)


def test_network_without_time_cannot_reach_the_entropy() -> None:
    toy = TOYS[2, 3]
    loss = objective(toy, CosineNoise(0.0), counts=False)
    assert bound(toy, loss, tight_at, best_outputs_without_time(toy, loss)) > toy.entropy + 0.01


@pytest.mark.parametrize("counts", [True, False])
def test_expected_gradients_of_tight_and_published_form_are_equal(counts: bool) -> None:
    toy = TOYS[2, 3]
    loss = objective(toy, LogLinearNoise(0.0), counts=counts)
    width = toy.letters + 1 + (toy.longest + 1 if counts else 1)
    generator = torch.Generator().manual_seed(1)
    for t in (0.1, 0.9):
        gradients = []
        for part in (tight_at, published_at):
            output = torch.randn(len(toy.states), toy.longest + 1, width, generator=generator.manual_seed(1)).double()
            output.requires_grad_()
            expected(toy, loss, t, output, part(t)).backward()
            gradients.append(output.grad)
        assert float(gradients[0].abs().max()) > 1e-2
        torch.testing.assert_close(gradients[0], gradients[1], atol=1e-12, rtol=0)


def test_gap_cross_entropy_is_minimal_at_the_exact_distribution() -> None:
    """Its gradient, averaged over all strings, states and alignments, vanishes at the exact network."""
    toy = TOYS[2, 3]
    loss, t = objective(toy, LogLinearNoise(0.0)), 0.4
    joint = toy.likelihood(missing_at(loss, t)) * toy.probs
    cases = [
        (row, column, places, float(joint[row, column]) / len(ways))
        for row, per_string in enumerate(toy.embeddings)
        for column, ways in enumerate(per_string)
        for places in ways
    ]
    rows, columns = (torch.tensor([case[side] for case in cases]) for side in (0, 1))
    origin = torch.tensor([[*places, *[0] * (toy.longest - len(places))] for _, _, places, _ in cases])
    output = toy.output(missing_at(loss, t)).clamp_min(-60).requires_grad_()
    times = torch.full((len(cases),), t, dtype=torch.float64)
    sizes = gaps_between(origin, toy.states[rows], toy.strings[columns])
    drawn = {"x_t": toy.states[rows], "sizes": sizes, "sigma": loss.schedule.sigma(times), "weight": loss.weight(times)}
    nats = loss._gap_cross_entropy(output[rows], drawn).sum(1)
    (torch.tensor([case[3] for case in cases], dtype=torch.float64) * nats).sum().backward()
    assert output.grad is not None
    assert float(nats.detach().sum()) > 1.0
    assert float(output.grad.abs().max()) < 1e-12


def test_corruption_has_the_stated_probabilities() -> None:
    toy, rows, t = TOYS[2, 4], 40_000, 0.3
    loss = objective(toy, LogLinearNoise(0.0))
    x_0 = torch.tensor([0, 1, 1, ABSENT]).expand(rows, 4)
    generator = torch.Generator().manual_seed(0)
    x_t, origin = loss.corrupt(x_0, torch.full((rows,), t, dtype=torch.float64), generator)
    shares = [float((x_t == token).double().sum()) / (3 * rows) for token in (toy.mask, ABSENT)]
    absent = (shares[1] * 3 - 1) / 3  # one position of four has ended
    assert (shares[0], absent) == pytest.approx((-t * math.log(t), t), abs=0.005)
    there = x_t != ABSENT
    same = x_0.gather(1, origin) == x_t
    assert bool((same | (x_t == toy.mask))[there].all())
    assert bool((gaps_between(origin, x_t, x_0).sum(1) + there.sum(1) == 3).all())


@pytest.mark.parametrize("name", ["insertion", "thinned_insertion"])
@pytest.mark.parametrize("schedule", [LogLinearNoise(0.0), CosineNoise(0.0)])
def test_samplers_are_of_order_one(name: str, schedule: NoiseSchedule) -> None:
    toy = TOYS[2, 3]
    process = DiffusionProcess(AbsorbingGraph(toy.letters), schedule)
    reading = objective(toy, schedule).parameterisation

    def network(x_t: Tensor, sigma: Tensor) -> Tensor:
        return toy.output(max(1e-12, float(reading.missing(sigma)[0])))

    target = torch.zeros(len(toy.states), dtype=torch.float64)
    places = {tuple(state): place for place, state in enumerate(toy.states.tolist())}
    target[[places[tuple(text)] for text in toy.strings.tolist()]] = toy.probs
    sizes = (toy.states != ABSENT).sum(1)
    distance, lengths = {}, {}
    for steps in (16, 64):
        sampler = create_sampler(name, process, Denoiser(network, reading), steps)
        assert isinstance(sampler, InsertionSampler)
        difference = propagate(toy, sampler) - target
        distance[steps] = float(difference.abs().sum()) / 2
        lengths[steps] = sum(abs(float(difference[sizes == size].sum())) for size in range(toy.longest + 1)) / 2
    assert 0.8 < math.log(distance[16] / distance[64], 4) < 1.2
    assert distance[64] < 0.03
    assert lengths[64] < (0.006 if name == "thinned_insertion" else 0.02)


def test_masks_are_inserted_before_tokens_and_at_the_end() -> None:
    tokens = torch.tensor([[5, 6, ABSENT, ABSENT, ABSENT], [5, ABSENT, ABSENT, ABSENT, ABSENT], [5, 6, 7, 8, 9]])
    sizes = torch.tensor([[1, 0, 2, 0, 0, 0], [0, 9, 0, 0, 0, 0], [3, 0, 0, 0, 0, 0]])
    expected_rows = [[9, 5, 6, 9, 9], [5, 9, 9, 9, 9], [5, 6, 7, 8, 9]]
    assert insert_masks(tokens, sizes, 9).tolist() == expected_rows


def test_samplers_refuse_prompts_lengths_and_other_networks() -> None:
    toy = TOYS[2, 3]
    loss, other = objective(toy, CosineNoise(0.0)), SubsLoss(DiffusionProcess(AbsorbingGraph(2), CosineNoise(0.0)))

    def network(x_t: Tensor, sigma: Tensor, **_: Tensor) -> Tensor:
        return torch.zeros(len(x_t), 4, 7)

    denoiser, plain = Denoiser(network, loss.parameterisation), Denoiser(network, other.parameterisation)
    with pytest.raises(LengthError, match="at t = 1 a row is empty"):
        sample(loss.process, denoiser, 2, 3, sampler="insertion", steps=4, prompt=torch.tensor([0]))
    with pytest.raises(LengthError, match="it draws lengths"):
        sample(loss.process, denoiser, 2, 3, sampler="insertion", steps=4, mask=torch.tensor([True, True, False]))
    with pytest.raises(
        SettingError, match="first_hitting for a network that inserts tokens; expected insertion, thinned"
    ):
        create_sampler("first_hitting", loss.process, denoiser, 4)
    with pytest.raises(SettingError, match="insertion for a network that inserts no tokens; expected analytic"):
        create_sampler("insertion", loss.process, plain, 4)
    with pytest.raises(SettingError, match="network of objective flexmdm"):
        InsertionSampler(loss.process, plain, 4)
    with pytest.raises(SettingError, match="steps: got 1; expected 2 or more"):
        create_sampler("insertion", loss.process, denoiser, 1)
    expecting = Denoiser(network, objective(toy, CosineNoise(0.0), counts=False).parameterisation)
    with pytest.raises(SettingError, match="gaps: expected"):
        create_sampler("thinned_insertion", loss.process, expecting, 4)


def test_parts_name_unmasking_and_insertion() -> None:
    toy = TOYS[2, 3]
    loss = objective(toy, CosineNoise(0.0))
    output = torch.zeros(3, 4, 7, dtype=torch.float64)
    times = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    rows = RowGenerators.from_seed(0, torch.arange(3))
    parts = loss.parts(lambda x_t, sigma: output, torch.zeros(3, 3, dtype=torch.int64), times, rows)
    assert isinstance(parts, InsertionParts)
    assert list(parts.named()) == ["unmasking", "insertion"]
    torch.testing.assert_close(sum(parts.named().values()), parts.total)
    assert parts.loss is not None
    assert parts.loss.shape == parts.total.shape == (3, 3)
    with pytest.raises(ShapeError, match="one time for each row"):
        loss.parts(lambda x_t, sigma: output, torch.zeros(3, 3, dtype=torch.int64), times[:, None].expand(3, 3))
    assert text_of(torch.tensor([1, ABSENT])) == [1]
