"""`times: count` and clipped times in diffusion models: splits of a batch, uniform networks, loss weightings."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.discrete.model import DiffusionModel
from model.discrete.types import DiffusionConfig
from model_factory.diffusion.errors import SettingError
from model_factory.diffusion.objectives.clipped_draw import ClippedDraw, SearchedClipDraw
from model_factory.diffusion.processes.noise_schedule import LogLinearNoise
from model_factory.diffusion.registry import SCHEDULES, register_schedule

VOCAB, ROWS, LENGTH = 7, 12, 10
DDIT = {"type": "ddit", "d_model": 16, "num_layers": 1, "num_heads": 2, "cond_dim": 8, "dropout": 0.0, "device": "cpu"}
STEPS = {"type": "discrete", "num_steps": 5, "curve": "cosine"}
COUNTED: list[dict[str, Any]] = [
    {"type": "mdlm", "times": "count"},
    {"type": "sedd", "times": "count"},
    {"type": "gidd", "times": "count"},
    {"type": "bd3lm", "block_size": 4, "times": "count"},
    {"type": "d3pm", "times": "count"},
    {"type": "bd3lm", "block_size": 4, "times": {"clip": [0.3, 0.8]}},
]


def build(objective: dict[str, Any], std: float | None = 0.2, **more: Any) -> DiffusionModel:
    schedule = STEPS if objective["type"] == "d3pm" else {"type": "loglinear", "eps": 0.0}
    config = {"objective": objective, "backbone": DDIT, "vocab_size": VOCAB, "length": LENGTH, "schedule": schedule}
    torch.manual_seed(0)
    model = DiffusionModel(DiffusionConfig.model_validate(config | more)).train()
    for parameter in model.parameters() if std is not None else ():
        nn.init.normal_(parameter, std=std)
    return model


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens, a mask of real tokens and one of responses, of uneven sizes; one row has no response."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(VOCAB, (ROWS, LENGTH), generator=generator)
    real = torch.arange(LENGTH) < torch.randint(2, LENGTH + 1, (ROWS, 1), generator=generator)
    response = torch.rand(ROWS, LENGTH, generator=generator) < 0.7
    response[3] = False
    return tokens, real, response


@pytest.mark.parametrize("objective", COUNTED, ids=lambda value: f"{value['type']}-{value['times']}")
@pytest.mark.parametrize("training", [True, False])
def test_loss_does_not_depend_on_the_split_of_the_batch(objective: dict[str, Any], training: bool) -> None:
    model = build(objective).train(training)
    tokens, real, response = batch()
    given: dict[str, Any] = {"batch_size": ROWS, "seed": 5}
    with torch.no_grad():
        whole = model(tokens, real, response_mask=response, rows=torch.arange(ROWS), **given)
        sums = torch.zeros(2)
        for rows in ([7, 2, 3, 0, 1], [4, 5], [6, 8, 9, 10, 11]):
            part = model(tokens[rows], real[rows], response_mask=response[rows], rows=torch.tensor(rows), **given)
            size = (real & response)[rows].sum()
            sums += torch.stack([part.loss * size, part.diffusion * size])
    mean = sums / (real & response).sum()
    torch.testing.assert_close(mean, torch.stack([whole.loss, whole.diffusion]), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("objective", COUNTED[:4], ids=lambda value: value["type"])
def test_batch_loss_of_an_untrained_network_has_no_spread(objective: dict[str, Any]) -> None:
    counts = build(objective, std=None)
    times = build({**objective, "times": "uniform"}, std=None)
    spread = []
    tokens, real, response = batch()
    with torch.no_grad():
        for model in (counts, times):
            losses = [model(tokens, real, response_mask=response, seed=seed).loss for seed in range(8)]
            spread.append(float(torch.stack(losses).std()))
            assert abs(float(losses[0]) - math.log(VOCAB)) < (1e-5 if model is counts else 1)
    assert spread[0] <= 1e-6
    assert spread[1] > 1e-2


@pytest.mark.parametrize("block_size", [None, 4])
def test_uniform_weighting_of_counts_has_the_mean_of_uniform_times(block_size: int | None) -> None:
    """A network of zeros has log N nats at each mask: k log N n / (n + 1) at k of n, whose mean is n / 2 log N."""
    kind = {"type": "mdlm"} if block_size is None else {"type": "bd3lm", "block_size": block_size}
    tokens, rows = torch.zeros(400, LENGTH, dtype=torch.long), torch.arange(400)
    means = []
    for times in ("count", "uniform"):
        model = build({**kind, "times": times}, std=0.0)
        with torch.no_grad():
            losses = [model(tokens, rows=rows, seed=seed, loss_weighting="uniform") for seed in range(4)]
        means.append(float(torch.stack([one.loss for one in losses]).mean()))
        assert float(losses[0].diffusion) == pytest.approx(math.log(VOCAB), rel=0.2)
    assert means[0] == pytest.approx(math.log(VOCAB) / 2, rel=2e-3)  # k is stratified
    assert means[1] == pytest.approx(math.log(VOCAB) / 2, rel=2e-2)


def test_documents_of_packed_rows_are_counted_together_without_bias() -> None:
    """Documents of a row share its number of masks, or have their own blocks; a network of zeros is exact either way."""
    documents = torch.tensor([[0] * 3 + [1] * 7]).expand(ROWS, -1)
    for objective in (COUNTED[0], COUNTED[3]):
        model = build(objective, std=0.0)
        with torch.no_grad():
            loss = model(batch()[0], documents=documents, seed=3).loss
        assert float(loss) == pytest.approx(math.log(VOCAB), abs=1e-5)


def test_custom_schedule_that_ends_above_0_is_refused_when_it_is_built() -> None:
    register_schedule("late")(lambda config: LogLinearNoise(0.1))
    try:
        with pytest.raises(SettingError, match=r"alpha from 1 to 0\.1"):
            build(COUNTED[0], schedule={"type": "late"})
    finally:
        SCHEDULES._entries.pop("late")


def test_clipped_times_and_shares_are_in_the_interval() -> None:
    model = build(COUNTED[5])
    tokens, t = torch.zeros(500, LENGTH, dtype=torch.long), torch.rand(500, dtype=torch.float64).clamp_min(1e-9)
    frozen = torch.zeros_like(tokens, dtype=torch.bool)
    times = model.times(t, tokens)
    noised = model.objective.draw(tokens, times, None, frozen, training=True)
    assert bool(((noised.t >= 0.3) & (noised.t <= 0.8)).all())
    torch.testing.assert_close(noised.weight, 1 / noised.t)
    masks = model.process.graph.is_masked(noised.x_t)
    for start, size in ((0, 4), (4, 4), (8, 2)):
        shares = masks[:, start : start + size].double().mean(1)
        assert set(shares.tolist()) == ({0.5, 0.75} if size == 4 else {0.5})
    evaluated = model.objective.draw(tokens, times, None, frozen)
    assert float(evaluated.t.min()) < 0.2
    assert evaluated.weight is None


def test_clipped_times_above_one_half_have_weight_1() -> None:
    clipped = {"type": "bd3lm", "block_size": 1, "times": {"clip": [1.0, 1.0]}}
    model = build(clipped, std=0.0)
    for weighting in ("bound", "uniform"):
        loss = model(batch()[0], seed=0, loss_weighting=weighting).loss.item()
        assert loss == pytest.approx(math.log(VOCAB), abs=1e-5)
    narrow = ClippedDraw(0.45, 0.55).draw(
        model.process, torch.zeros(3, 4, dtype=torch.long), torch.rand(3), None, torch.zeros(3, 4, dtype=torch.bool)
    )
    assert model.process.graph.is_masked(narrow.x_t).sum(1).tolist() == [2, 2, 2]


def test_searched_intervals_are_those_of_bd3lm() -> None:
    draw = SearchedClipDraw(4)
    intervals = list(draw.intervals())
    assert (draw.low, draw.high) == intervals[0] == (1e-3, 1.0)
    assert len(intervals) == len(set(intervals)) == 1 + 11 + 9 + 7 + 5 + 3
    assert {(1e-3, 0.5), (0.45, 0.95), (0.5, 1.0), (0.1, 1.0)} < set(intervals)
    draw.choose({})
    assert draw.low == 1e-3
    draw.choose({(0.3, 0.8): 2.0, (0.5, 1.0): 1.0, (1e-3, 1.0): 9.0})
    assert (draw.low, draw.high) == (0.5, 1.0)
    assert list(SearchedClipDraw(1).intervals()) == [(1e-3, 1.0), (1.0, 1.0)]
