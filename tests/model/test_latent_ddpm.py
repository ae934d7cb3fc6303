"""Diffusion of latents: tables, loss and samples against the formulas, published and our own."""

import copy
import math
import warnings
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

from model.latent.abstract import DDPM_Abs, DDPM_abs
from model.latent.ddpm import DDPM, ddpm_schedule
from model.latent.networks import LinearModel, MLPSkipNet, SelfConditioned
from model.transformer.inputs import InputError
from model_factory.diffusion.gaussian_schedule import strided_times
from model_factory.diffusion.randomness import RowGenerators
from tests.oracles.dmlp_tables import published_tables
from tests.oracles.gaussian_closed_form import NormalData

BETAS, STEPS, LATENT = (1e-3, 0.4), 20, 6
cosine = partial(ddpm_schedule, kind="cosine")


def network(latent: int = LATENT, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return MLPSkipNet(latent, width=32, num_layers=3)


def ddpm(**settings) -> DDPM:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the published schedule needs more steps than a test has
        return DDPM(network(), BETAS, STEPS, **settings)


def latents(rows: int = 8, seed: int = 1, width: int = LATENT) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def test_ddpm_compat_tables_are_the_published_ones() -> None:
    given, wanted = ddpm_schedule(1e-4, 0.02, 700, compat="dmlp"), published_tables(700)
    assert list(given) == list(wanted)
    for name, table in given.items():
        assert table.dtype == torch.float32
        torch.testing.assert_close(table, wanted[name], rtol=2e-4, atol=1e-6)  # theirs are summed in float32


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
def test_ddpm_tables_follow_from_beta(kind: str) -> None:
    tables = ddpm_schedule(0.1, 0.1 if kind == "constant" else 0.3, STEPS, kind=kind)  # type: ignore[arg-type]
    beta = tables["beta_t"].double()
    kept = (1 - beta).cumprod(0)
    assert all(table.shape == (STEPS + 1,) and table.isfinite().all() for table in tables.values())
    begin = {name: float(table[0]) for name, table in tables.items()}
    ones, zeros = ("alpha_t", "oneover_sqrta", "alphabar_t", "sqrtab"), ("beta_t", "sqrt_beta_t", "sqrtmab")
    assert begin == dict.fromkeys(ones, 1.0) | dict.fromkeys((*zeros, "mab_over_sqrtmab", "loss_weight"), 0.0)
    for name, wanted in {
        "alphabar_t": kept,
        "sqrtmab": (1 - kept).sqrt(),
        "oneover_sqrta": (1 - beta) ** -0.5,
        "mab_over_sqrtmab": beta / (1 - kept).sqrt(),
        "loss_weight": beta / (2 * (1 - beta) * (1 - kept)),
    }.items():
        torch.testing.assert_close(tables[name][1:].double(), wanted[1:], rtol=1e-4, atol=0)


@pytest.mark.parametrize("prediction", ["noise", "x0", "v"])
def test_ddpm_loss_matches_the_formula(prediction: str) -> None:
    model, x, noise = ddpm(prediction=prediction), latents(), latents(seed=2)
    t = torch.arange(1, 17, 2)
    loss, weight = model(x, t=t, noise=noise)
    kept = model.alphabar_t[t][:, None]
    x_t = kept.sqrt() * x + (1 - kept).sqrt() * noise
    wanted = {"noise": noise, "x0": x, "v": kept.sqrt() * noise - (1 - kept).sqrt() * x}[prediction]
    torch.testing.assert_close(loss, (wanted - model.eps_model(x_t, t / STEPS)).square().mean(1), rtol=1e-4, atol=1e-6)
    assert torch.equal(weight, model.loss_weight[t][:, None])


def test_ddpm_compat_loss_is_the_published_one() -> None:
    model, x, mu, noise = ddpm(compat="dmlp"), latents(), latents(seed=3), latents(seed=2)
    t, tables = torch.tensor([1, 20, 1, 7, 2, 3, 1, 19]), published_tables(STEPS)
    x_t = tables["sqrtab"][t, None] * x + tables["sqrtmab"][t, None] * noise
    output = model.eps_model(x_t, t / STEPS)
    wanted = nn.functional.mse_loss(output, noise, reduction="none").mean(1)
    x_0 = (x_t - math.sqrt(0.008) * output) / math.sqrt(0.992)
    first = 0.992 / 0.008 * nn.functional.mse_loss(x_0, mu, reduction="none").mean(1)
    loss, weight = model(x, mu, t=t, noise=noise)
    torch.testing.assert_close(loss, torch.where(t == 1, first, wanted), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(weight, tables["loss_weight"][t][:, None], rtol=1e-4, atol=0)


def test_ddpm_compat_samples_are_the_published_loop() -> None:
    model, tables = ddpm(compat="dmlp").eval(), published_tables(STEPS)
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(5, LATENT, generator=generator)
    for i in range(STEPS, 0, -1):
        output = model.eps_model(x, torch.full((5, 1), i / STEPS)).detach()
        x = tables["oneover_sqrta"][i] * (x - output * tables["mab_over_sqrtmab"][i])
        if i > 1:
            x = x + tables["sqrt_beta_t"][i] * torch.randn(5, LATENT, generator=generator)
    sampled = model.sample(5, (LATENT,), "cpu", False, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(sampled, x, rtol=1e-4, atol=1e-4)


class ExactNetwork(nn.Module):
    """Return the output of an exact network for data N(1.5, 0.6^2), x_t [B, 1] float64, at t / STEPS."""

    def __init__(self, prediction: str) -> None:
        super().__init__()
        self.prediction = prediction
        self.mean = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
        betas = ddpm_schedule(*BETAS, STEPS)["beta_t"].double()
        self.data = NormalData(1.5, 0.6, tuple(betas[1:].tolist()))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        (step,) = set((t * STEPS).round().int().tolist())
        kept, x_0 = self.data.alpha_bar(step), self.data.best_x_0(x, step)
        noise = (x - math.sqrt(kept) * x_0) / math.sqrt(1 - kept)
        return {"noise": noise, "x0": x_0, "v": math.sqrt(kept) * noise - math.sqrt(1 - kept) * x_0}[self.prediction]


@pytest.mark.parametrize("prediction", ["noise", "x0", "v"])
@pytest.mark.parametrize("steps", [1, 6, STEPS, None])
def test_ddim_samples_follow_the_exact_distribution(prediction: str, steps: int | None) -> None:
    exact = ExactNetwork(prediction)
    model = DDPM(exact, BETAS, STEPS, prediction=prediction)  # type: ignore[arg-type]
    ends = model.sample(2, 1, steps=steps, sampler="ddim", noise=torch.tensor([[0.0], [1.0]], dtype=torch.float64))
    mean, slope = float(ends[0]), float(ends[1] - ends[0])
    assert (mean, slope**2) == pytest.approx(
        exact.data.expected_moments(strided_times(STEPS, steps or STEPS), 0.0), rel=1e-9
    )


@pytest.mark.parametrize(("sampler", "eta"), [("ancestral", 0.0), ("ddim", 0.5), ("ddim", 1.0)])
@pytest.mark.parametrize("steps", [5, STEPS])
def test_stochastic_samples_follow_the_exact_distribution(sampler: str, eta: float, steps: int) -> None:
    exact, rows = ExactNetwork("noise"), 20_000
    generator = RowGenerators.from_seed(5, torch.arange(rows))
    drawn = DDPM(exact, BETAS, STEPS).sample(rows, 1, steps=steps, sampler=sampler, eta=eta, generator=generator)  # type: ignore[arg-type]
    mean, variance = exact.data.expected_moments(strided_times(STEPS, steps), eta or 1.0)
    assert abs(float(drawn.mean()) - mean) < 4 * math.sqrt(variance / rows)
    assert abs(float(drawn.var()) / variance - 1) < 4 * math.sqrt(2 / rows)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
@pytest.mark.parametrize("conditioned", [0.0, 0.5])
def test_ddpm_samples_are_independent_of_other_rows(sampler: str, conditioned: float) -> None:
    model = ddpm(self_conditioning=conditioned)
    if conditioned:
        nn.init.eye_(model.eps_model.linear.weight)  # type: ignore[union-attr, arg-type]
    draw = partial(model.sample, size=LATENT, sampler=sampler, steps=7, eta=0.3 if sampler == "ddim" else 0.0)

    def seeds(*rows: int) -> RowGenerators:
        return RowGenerators.from_seed(9, torch.tensor(rows))

    together = draw(5, generator=seeds(0, 1, 2, 3, 4))
    assert torch.equal(draw(5, generator=seeds(7, 1, 8, 3, 6))[[1, 3]], together[[1, 3]])
    torch.testing.assert_close(draw(2, generator=seeds(3, 1)), together[[3, 1]], rtol=1e-5, atol=1e-5)
    assert not torch.isclose(draw(1, generator=seeds(7)), together[:1]).any()


def test_ddpm_loss_is_independent_of_other_rows() -> None:
    model, x, generator = ddpm(self_conditioning=0.5), latents(), partial(RowGenerators.from_seed, 2)
    nn.init.eye_(model.eps_model.linear.weight)  # type: ignore[union-attr, arg-type]
    loss, weight = model(x, generator=generator(torch.arange(8)))
    changed = x.clone()
    changed[4] = 3.0
    after, _ = model(changed, generator=generator(torch.arange(8)))
    kept = torch.arange(8) != 4
    assert torch.equal(after[kept], loss[kept])
    assert after[4] != loss[4]
    half, half_weight = model(x[4:], generator=generator(torch.arange(4, 8)))
    torch.testing.assert_close(half, loss[4:])
    assert torch.equal(half_weight, weight[4:])


def test_ddpm_times_are_uniform_from_1_to_T() -> None:
    model = DDPM(LinearModel(2), (0.5, 0.9), 4)
    _, weight = model(torch.zeros(8000, 2), generator=torch.Generator().manual_seed(0))
    counts = [int((weight == model.loss_weight[t]).sum()) for t in range(1, 5)]
    assert sum(counts) == 8000
    assert all(abs(count - 2000) < 4 * math.sqrt(8000 * 3 / 16) for count in counts)


def test_self_conditioning_estimate_has_no_gradient() -> None:
    x, noise, t = latents(), latents(seed=2), torch.arange(1, 9)
    model = ddpm(self_conditioning=1.0, prediction="x0")
    inner = model.eps_model
    assert isinstance(inner, SelfConditioned)
    nn.init.eye_(inner.linear.weight)
    loss, _ = model(x, t=t, noise=noise)
    x_t = model.diffusion.q_sample(x, t, noise)
    first = inner.network(x_t, t / STEPS).detach()
    wanted = (x - inner.network(x_t + first, t / STEPS)).square().mean(1)
    torch.testing.assert_close(loss, wanted)
    grads = [torch.autograd.grad(value.sum(), list(inner.network.parameters())) for value in (loss, wanted)]
    for given, expected in zip(*grads, strict=True):
        torch.testing.assert_close(given, expected)


def test_self_conditioning_applies_to_a_share_of_rows() -> None:
    model, x, t = ddpm(self_conditioning=0.25), latents(4000), torch.full((4000,), 9)
    plain = ddpm()(x, t=t, noise=latents(4000, seed=2))[0]
    nn.init.eye_(model.eps_model.linear.weight)  # type: ignore[union-attr, arg-type]
    loss, _ = model(x, t=t, noise=latents(4000, seed=2), generator=torch.Generator().manual_seed(3))
    shown = int((~torch.isclose(loss, plain, rtol=1e-6)).sum())
    assert abs(shown - 1000) < 4 * math.sqrt(4000 * 0.25 * 0.75)


def test_self_conditioning_sampling_feeds_the_last_estimate_back() -> None:
    model, x = ddpm(self_conditioning=0.5, prediction="v").eval(), latents(3)
    nn.init.eye_(model.eps_model.linear.weight)  # type: ignore[union-attr, arg-type]
    drawn = model.sample(3, LATENT, sampler="ddim", steps=4, noise=x)
    estimate = torch.zeros_like(x)
    for t, s in pairwise(strided_times(STEPS, 4)):
        output = model.eps_model.network(x + estimate, torch.full((3,), t / STEPS)).detach()  # type: ignore[union-attr, operator]
        estimate = model.diffusion.x0_from("v", output, x, t)
        x = model.diffusion.ddim_step(x, estimate, t, s)
    torch.testing.assert_close(drawn, x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("prediction", ["noise", "x0", "v"])
def test_ddpm_gradients_reach_latent_and_network(dtype: torch.dtype, prediction: str) -> None:
    model, x = ddpm(prediction=prediction).to(dtype), latents().to(dtype).requires_grad_()
    loss, weight = model(x, generator=torch.Generator().manual_seed(0))
    assert (loss.dtype, weight.shape, loss.shape) == (torch.float32, (8, 1), (8,))
    loss.mean().backward()
    assert x.grad is not None
    assert x.grad.abs().sum(1).gt(0).all()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_ddpm_tables_survive_bfloat16_and_checkpoints() -> None:
    model, tables = ddpm(), ddpm_schedule(*BETAS, STEPS)
    model.to(torch.bfloat16)
    assert next(model.parameters()).dtype == torch.bfloat16
    saved = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
    other = ddpm()
    other.load_state_dict(saved)
    for kept in (model, other, copy.deepcopy(model).half()):
        assert all(torch.equal(getattr(kept, name), table) for name, table in tables.items())
        assert set(tables) <= set(kept.state_dict())
    torch.testing.assert_close(other.sample(2, LATENT, noise=latents(2)).shape, (2, LATENT))


def test_ddpm_tables_exist_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = DDPM(LinearModel(LATENT), BETAS, STEPS)
    model.to_empty(device="cpu").load_state_dict(DDPM(LinearModel(LATENT), BETAS, STEPS).state_dict())
    assert torch.equal(model.beta_t, ddpm_schedule(*BETAS, STEPS)["beta_t"])
    assert model.sample(2, LATENT, steps=2).isfinite().all()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: DDPM(network(), (1e-3, 0.5), STEPS), "beta_t is of another schedule"),
        (lambda: DDPM(network(), BETAS, STEPS + 1), "beta_t has 21 steps, and this schedule has 20"),
        (lambda: DDPM(network(), BETAS, STEPS, ddpm_schedule=cosine, prediction="v"), "beta_t is of another schedule"),
    ],
)
def test_ddpm_checkpoint_of_another_schedule_is_refused(other, message) -> None:
    with pytest.raises(RuntimeError, match=message):
        ddpm().load_state_dict(other().state_dict())


def test_ddpm_sampling_keeps_dtype_and_training_mode() -> None:
    model = ddpm().train()
    exact = model.sample(3, (LATENT,), noise=latents(3), sampler="ddim")
    half = model.sample(3, LATENT, "cpu", True, noise=latents(3), sampler="ddim")
    assert model.eps_model.training
    assert half.dtype == torch.float32
    assert not torch.equal(half, exact)
    torch.testing.assert_close(half, exact, rtol=0.1, atol=0.1)
    assert ddpm().to(torch.bfloat16).sample(3, LATENT).dtype == torch.bfloat16
    assert model.sample(0, LATENT).shape == (0, LATENT)


def test_ddpm_sampling_disables_dropout() -> None:
    torch.manual_seed(0)
    model = DDPM(MLPSkipNet(LATENT, width=32, num_layers=3, dropout=0.5), BETAS, STEPS).train()
    first, second = (model.sample(3, LATENT, sampler="ddim", noise=latents(3)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("prediction", "schedule", "conditioned"),
    [("noise", ddpm_schedule, 0.0), ("x0", cosine, 0.0), ("v", cosine, 0.5)],
)
def test_ddpm_learns_two_points(prediction: str, schedule, conditioned: float) -> None:
    points = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = DDPM(
        MLPSkipNet(2, width=64, num_layers=3, time_dim=16),
        BETAS,
        50,
        ddpm_schedule=schedule,
        prediction=prediction,  # type: ignore[arg-type]
        self_conditioning=conditioned,
    )

    def near(**choice) -> torch.Tensor:
        drawn = model.sample(400, 2, generator=torch.Generator().manual_seed(1), **choice)
        return (torch.cdist(drawn, points) < 0.35).float().mean(0)

    assert near().sum() < 0.5
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(800):
        x = points[torch.randint(2, (128,), generator=generator)]
        optimizer.zero_grad()
        model(x, generator=generator)[0].mean().backward()
        optimizer.step()
    for choice in ({}, {"sampler": "ddim", "steps": 25}):
        shares = near(**choice)
        assert shares.sum() > 0.75, (choice, shares)
        assert shares.min() > 0.3, (choice, shares)


def test_ddpm_warns_of_unsuitable_schedules() -> None:
    with pytest.warns(UserWarning, match=r"leaves 0.36 of the latent's variance at t = 100; raise betas"):
        DDPM(network(), (1e-4, 0.02), 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DDPM(network(), (1e-4, 0.02), 1000)
        DDPM(network(), (1e-4, 0.02), 1000, ddpm_schedule=cosine, prediction="v")
    with pytest.warns(
        UserWarning, match=r"a beta of 0.999, which amplifies errors of predicted noise; use 'v' or 'x0'"
    ):
        DDPM(network(), BETAS, 50, ddpm_schedule=cosine)


def test_ddpm_custom_subclass_has_the_interface() -> None:
    class Mine(DDPM_Abs):
        def forward(self, x, mu=None):
            return self.criterion(x, self.eps_model(x, x[:, 0])).mean(1), x[:, :1]

        def sample(self, n_sample, size, device=None, fp16=False):
            return torch.zeros(n_sample, size)

    assert DDPM_abs is DDPM_Abs
    assert Mine(network(), BETAS, STEPS, nn.L1Loss(reduction="none"), ddpm_schedule)(latents())[0].shape == (8,)
    with pytest.raises(TypeError, match="abstract"):
        DDPM_Abs(network(), BETAS, STEPS, nn.L1Loss(), ddpm_schedule)  # type: ignore[abstract]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m(latents(width=5)), "the latent is 5 wide, and the network was built for 6"),
        (lambda m: m.sample(2, 7), "the latent is 7 wide, and the network was built for 6"),
        (lambda m: m(latents()[0]), r"the latent is float32 \[6\], and float \[B, latent\]"),
        (lambda m: m(latents(), t=torch.zeros(8).long()), "t goes from 0 to 0, and steps from 1 to 20"),
        (lambda m: m(latents(), t=torch.ones(8)), r"t is float32 \[8\], and int64 \[8\]"),
        (lambda m: m(latents(), noise=latents(7)), r"noise: got shape \[7, 6\]; expected \[8, 6\]"),
        (lambda m: m.sample(2, LATENT, noise=latents(3)), r"noise is float32 \[3, 6\], and float \[2, 6\]"),
        (lambda m: m.sample(2, LATENT, sampler="euler"), "sampler: got 'euler'; expected one of ancestral, ddim"),
        (lambda m: m.sample(2, LATENT, eta=0.5), "sampler: got 'eta'; expected no settings: ancestral has none"),
        (lambda m: m.sample(2, LATENT, sampler="ddim", eta=2.0), "eta: got 2.0"),
        (lambda m: m.sample(2, LATENT, steps=21), "steps: got 21; expected at most the 20 steps"),
        (lambda m: ddpm(compat="dmlp")(latents()), r"mu is a NoneType, and compat: dmlp needs float \[8, 6\]"),
        (lambda m: ddpm(compat="optimus"), "compat is 'optimus'; use None, or 'dmlp'"),
        (lambda m: ddpm(compat="dmlp", prediction="v"), "dmlp predicts the noise"),
        (lambda m: ddpm(prediction="score"), "prediction: got 'score'"),
        (lambda m: ddpm(self_conditioning=1.5), "self_conditioning: got 1.5"),
        (lambda m: ddpm(criterion=nn.MSELoss())(latents()), "use reduction='none'"),
        (lambda m: DDPM(nn.Linear(6, 6), BETAS, STEPS, self_conditioning=0.5), "Linear has no latent_dim; wrap it"),
        (lambda m: DDPM(network(), BETAS, STEPS, ddpm_schedule=lambda *_: {}), "table beta_t is missing"),
        (
            lambda m: DDPM(network(), BETAS, 5, ddpm_schedule=lambda a, b, T: ddpm_schedule(a, b, 4)),
            r"\[5\]; it must be float \[6\]",
        ),
    ],
)
def test_ddpm_errors_name_valid_values(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call(ddpm())


def test_ddpm_wrong_network_output_shape_is_reported() -> None:
    class Wide(nn.Module):
        def forward(self, x, t):
            return torch.cat([x, x], 1)

    with pytest.raises(InputError, match=r"returns float32 \[8, 12\] for a latent \[8, 6\]"):
        DDPM(Wide(), BETAS, STEPS)(latents())
