"""Gaussian diffusion against slow float64 references: Bayes' rule on a grid, and exact distributions of samples."""

import math
from itertools import pairwise

import pytest
import torch

from model_factory.diffusion.errors import DiffusionInputError, SettingError, ShapeError, TimeError
from model_factory.diffusion.gaussian import GaussianDiffusion
from model_factory.diffusion.gaussian_schedule import MAX_BETA, beta_table, strided_times
from model_factory.diffusion.randomness import RowGenerators, normal
from tests.oracles.gaussian_closed_form import NormalData

TABLES = {
    "linear": beta_table("linear", 40, 0.001, 0.3),
    "cosine": beta_table("cosine", 25),
    "constant": beta_table("constant", 30, 0.2, 0.2),
}
TIMES = [(1, 0), (2, 1), (9, 2), (25, 3), (25, 0), (14, 13)]


def made(kind: str, mean: float = 1.5, std: float = 0.6) -> tuple[NormalData, GaussianDiffusion]:
    return NormalData(mean, std, tuple(TABLES[kind][1:].tolist())), GaussianDiffusion(TABLES[kind])


def normals(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_gaussian_schedules_match_papers() -> None:
    linear = beta_table("linear", 1000)
    assert linear[0] == 0
    assert linear[1] == 1e-4
    assert linear[-1] == pytest.approx(0.02)
    assert (linear[2:] - linear[1:-1]).std() < 1e-15
    assert beta_table("constant", 3, 0.25, 0.25).tolist() == [0, 0.25, 0.25, 0.25]
    cosine, process = beta_table("cosine", 100), GaussianDiffusion(beta_table("cosine", 100))
    for t in (1, 30, 70, 99):
        level = [math.cos((step / 100 + 0.008) / 1.008 * math.pi / 2) ** 2 for step in (0, t)]
        assert float(process.alpha_bar[t]) == pytest.approx(level[1] / level[0], rel=1e-12)
    assert cosine.max() == MAX_BETA


@pytest.mark.parametrize("kind", TABLES)
def test_gaussian_alpha_bar_is_product_of_steps(kind: str) -> None:
    data, process = made(kind)
    wanted = torch.tensor([data.alpha_bar(t) for t in range(process.num_steps + 1)], dtype=torch.float64)
    torch.testing.assert_close(process.alpha_bar, wanted, rtol=1e-12, atol=0)
    torch.testing.assert_close(process.lost, 1 - wanted, rtol=1e-12, atol=1e-15)


def test_gaussian_lost_is_accurate_for_small_beta() -> None:
    process = GaussianDiffusion(torch.tensor([0.0, 1e-14, 0.5], dtype=torch.float64))
    assert float(process.lost[1]) == pytest.approx(1e-14, rel=1e-12)


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize(("t", "s"), [times for times in TIMES if times[1] > 0])
def test_gaussian_posterior_follows_bayes_rule(kind: str, t: int, s: int) -> None:
    data, process = made(kind)
    for x_t, x_0 in [(0.3, -0.7), (-2.0, 1.0)]:
        mean, variance = process.posterior(
            torch.tensor([x_t], dtype=torch.float64), torch.tensor([x_0], dtype=torch.float64), t, s
        )
        assert (float(mean), float(variance)) == pytest.approx(data.posterior_on_a_grid(x_t, x_0, t, s), abs=1e-9)


def test_gaussian_posterior_at_zero_is_x_0() -> None:
    process, x_t, x_0 = made("linear")[1], normals(5, 3), normals(5, 3, seed=1)
    mean, variance = process.posterior(x_t, x_0, torch.tensor([1, 2, 9, 25, 40]), 0)
    torch.testing.assert_close(mean, x_0, rtol=1e-14, atol=1e-14)
    assert not variance.any()


@pytest.mark.parametrize("prediction", ["noise", "x0", "v"])
@pytest.mark.parametrize("kind", TABLES)
def test_gaussian_predictions_convert_to_x0_and_noise(prediction: str, kind: str) -> None:
    process, x_0, noise = made(kind)[1], normals(24, 3, 2), normals(24, 3, 2, seed=1)
    t = torch.arange(1, 25)
    x_t = process.q_sample(x_0, t, noise)
    output = process.target(prediction, x_0, noise, t)  # type: ignore[arg-type]
    torch.testing.assert_close(process.x0_from(prediction, output, x_t, t), x_0, rtol=0, atol=1e-10)  # type: ignore[arg-type]
    torch.testing.assert_close(process.noise_from(prediction, output, x_t, t), noise, rtol=0, atol=1e-10)  # type: ignore[arg-type]


def test_v_prediction_is_derivative_along_angle() -> None:
    """Salimans and Ho 2022: with x(a) = cos(a) x_0 + sin(a) noise, v = dx/da."""
    process, x_0, noise = made("linear")[1], normals(4), normals(4, seed=1)
    angle = torch.acos(process.alpha_bar[7].sqrt()).repeat(4).requires_grad_()
    (slope,) = torch.autograd.grad((angle.cos() * x_0 + angle.sin() * noise).sum(), angle)
    torch.testing.assert_close(process.target("v", x_0, noise, 7), slope)


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("steps", [1, 4, 7, 25])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_gaussian_samples_follow_closed_recursion(kind: str, steps: int, eta: float) -> None:
    data, process = made(kind)
    times = strided_times(process.num_steps, steps)
    probs = data.sampled_moments(lambda x, x_0, t, s, noise: process.ddim_step(x, x_0, t, s, eta, noise), times)
    assert probs == pytest.approx(data.expected_moments(times, eta), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize(("t", "s"), TIMES)
def test_ddim_at_eta_1_is_the_ancestral_step(kind: str, t: int, s: int) -> None:
    process = made(kind)[1]
    x_t, x_0, noise = (normals(6, 2, seed=seed) for seed in range(3))
    ancestral = process.ancestral_step(x_t, x_0, t, s, noise)
    torch.testing.assert_close(process.ddim_step(x_t, x_0, t, s, 1.0, noise), ancestral, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_gaussian_samples_converge_to_data(sampler: str) -> None:
    betas = beta_table("linear", 1000, 1e-4, 0.04)
    data, process = NormalData(1.5, 0.6, tuple(betas[1:].tolist())), GaussianDiffusion(betas)
    step = process.ancestral_step if sampler == "ancestral" else lambda x, x_0, t, s, _: process.ddim_step(x, x_0, t, s)
    distributions = [data.sampled_moments(step, strided_times(1000, steps)) for steps in (10, 40, 160, 1000)]
    errors = [abs(math.sqrt(variance) - 0.6) + abs(mean - 1.5) for mean, variance in distributions]
    assert errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[1] > 12 * errors[3]  # with 25 times as many steps
    assert errors[3] < 0.01, errors


def test_forward_variance_matches_published_step() -> None:
    betas = TABLES["linear"]
    process, alpha = made("linear")[1], 1 - betas
    alpha_bar = alpha.cumprod(0)
    x, noise_hat, z = (normals(5, seed=seed) for seed in range(3))
    for t in (1, 2, 20, 40):
        published = (x - noise_hat * (1 - alpha[t]) / (1 - alpha_bar[t]).sqrt()) / alpha[t].sqrt() + betas[t].sqrt() * z
        x_0 = process.x0_from("noise", noise_hat, x, t)
        torch.testing.assert_close(process.ancestral_step(x, x_0, t, t - 1, z, "forward"), published)


def test_gaussian_time_per_row_equals_single_rows() -> None:
    process, x_t, x_0, noise = made("cosine")[1], *(normals(3, 2, 2, seed=seed) for seed in range(3))
    t, s = torch.tensor([4, 25, 9]), torch.tensor([3, 11, 0])
    for step in (process.ancestral_step, lambda *a: process.ddim_step(*a[:4], 0.3, a[4])):
        together = step(x_t, x_0, t, s, noise)
        for row in range(3):
            one = slice(row, row + 1)
            alone = step(x_t[one], x_0[one], int(t[row]), int(s[row]), noise[one])
            torch.testing.assert_close(together[one], alone, rtol=1e-14, atol=1e-14)


def test_gaussian_float32_is_kept_and_accurate() -> None:
    process, x_t, x_0 = made("cosine")[1], normals(4, 2), normals(4, 2, seed=1)
    for t, s in [(25, 20), (1, 0)]:
        exact = process.ddim_step(x_t, x_0, t, s)
        rounded = process.ddim_step(x_t.float(), x_0.float(), t, s)
        assert rounded.dtype == torch.float32
        torch.testing.assert_close(rounded.double(), exact, rtol=1e-5, atol=1e-5)


def test_normals_do_not_depend_on_other_rows() -> None:
    rows = torch.arange(4000)
    drawn = normal((4000, 5), RowGenerators.from_seed(3, rows))
    some = normal((7, 5), RowGenerators.from_seed(3, rows[40:47]), dtype=torch.float32)
    assert torch.equal(some, drawn[40:47].float())
    assert abs(float(drawn.mean())) < 4 / math.sqrt(drawn.numel())
    assert abs(float(drawn.var()) - 1) < 4 * math.sqrt(2 / drawn.numel())
    assert abs(float((drawn**4).mean()) - 3) < 4 * math.sqrt(96 / drawn.numel())
    first = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    assert torch.equal(normal((2, 3), first[0]), torch.randn(2, 3, generator=first[1], dtype=torch.float64))


def test_normal_of_uniform_zero_is_finite() -> None:
    rows = RowGenerators(torch.tensor([-(0x9E3779B97F4A7C15 - (1 << 64))]))  # its first word is 0
    assert RowGenerators(rows.keys).rand(1).item() == 0.0
    assert -9 < normal((1, 1), rows).item() < -8


@pytest.mark.parametrize("num_steps", [1, 7, 50, 1000])
def test_strided_times_are_even_and_reach_both_ends(num_steps: int) -> None:
    for steps in {1, (num_steps + 1) // 2, max(1, num_steps // 3), num_steps}:
        times = strided_times(num_steps, steps)
        gaps = {t - s for t, s in pairwise(times)}
        assert (times[0], times[-1], len(times)) == (num_steps, 0, steps + 1)
        assert min(gaps) >= 1
        assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda p: beta_table("square", 5), SettingError, "kind: got 'square'; expected linear, cosine or constant"),  # type: ignore[arg-type]
        (lambda p: beta_table("linear", 0), SettingError, "num_steps: got 0"),
        (lambda p: beta_table("linear", 5, 0.3, 0.1), SettingError, "beta_1: got 0.3; expected at most beta_2 = 0.1"),
        (lambda p: beta_table("linear", 5, 0.1, 1.0), SettingError, "beta_2: got 1.0"),
        (lambda p: beta_table("constant", 5, 0.1, 0.2), SettingError, "one beta"),
        (lambda p: GaussianDiffusion(torch.tensor([0.0, 0.1, 1.0])), SettingError, r"betas\[2\]: got 1.0"),
        (lambda p: GaussianDiffusion(torch.zeros(2, 2)), ShapeError, r"betas: got torch.float32 \[2, 2\]"),
        (lambda p: strided_times(5, 6), SettingError, "steps: got 6; expected at most the 5 steps"),
        (lambda p: p.q_sample(normals(2), 41, normals(2)), TimeError, "t: got 41; expected a step from 0 to 40"),
        (lambda p: p.q_sample(normals(2), torch.tensor([1, 41]), normals(2)), DiffusionInputError, "41"),
        (lambda p: p.q_sample(normals(2), torch.tensor([1]), normals(2)), ShapeError, r"t: got shape \[1\]"),
        (lambda p: p.q_sample(normals(2), 1, normals(3)), ShapeError, r"noise: got shape \[3\]; expected \[2\]"),
        (lambda p: p.posterior(normals(2), normals(2), 3, 3), TimeError, "s: got 3; expected a time before t = 3"),
        (lambda p: p.ddim_step(normals(2), normals(2), 3, 2, 1.5, normals(2)), SettingError, "eta: got 1.5"),
        (lambda p: p.ddim_step(normals(2), normals(2), 3, 2, 0.5), SettingError, "0 without noise"),
        (lambda p: p.target("score", normals(2), normals(2), 3), SettingError, "prediction: got 'score'"),
        (lambda p: p.ancestral_step(*[normals(2)] * 2, 3, 2, None, "big"), SettingError, "variance: got 'big'"),
    ],
)
def test_gaussian_errors_name_argument_and_expectation(call, kind, message) -> None:
    with pytest.raises(kind, match=message):
        call(made("linear")[1])
