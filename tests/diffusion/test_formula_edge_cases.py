"""Edge cases of single formulas: normalisation, rounding, clamping and float64."""

import math

import pytest
import torch
from torch import Tensor

from model_factory.diffusion.errors import SettingError
from model_factory.diffusion.objectives.discrete_time import (
    D3pmLoss,
    DiscreteNoise,
    DiscreteSubsLoss,
    _divergence,
    _normalise,
    discrete_loss,
)
from model_factory.diffusion.objectives.parameterisation import ScoreParameterisation, X0Parameterisation
from model_factory.diffusion.processes import forward_process
from model_factory.diffusion.processes.diffusion_process import DiffusionProcess
from model_factory.diffusion.processes.forward_process import _TRACE, Graph
from model_factory.diffusion.processes.graph import AbsorbingGraph, UniformGraph
from model_factory.diffusion.processes.hybrid import HybridGraph, HybridMixture
from model_factory.diffusion.processes.noise_schedule import CosineNoise, GeometricNoise, LogLinearNoise
from model_factory.diffusion.randomness import RowGenerators
from model_factory.diffusion.samplers.base import create_sampler
from model_factory.diffusion.samplers.denoiser import Denoiser, apply_temperature
from model_factory.diffusion.samplers.remasking import RemaskingSampler
from model_factory.diffusion.samplers.state import start_state

B, L = 2, 3
MIXED = Graph(3, torch.tensor([1, 2, 1, 4]))
GRAPHS = [
    MIXED,
    Graph(4, torch.tensor([1.0, 2.0, 3.0, 4.0])),
    UniformGraph(4),
    AbsorbingGraph(3),
    HybridGraph(3, 0.3, 1.4),
]
SIGMA, EARLIER = torch.tensor([0.7, 1.3], dtype=torch.float64), torch.tensor([0.2, 0.9], dtype=torch.float64)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tokens(graph: Graph, seed: int = 1) -> Tensor:
    return torch.randint(graph.dim, (B, L), generator=torch.Generator().manual_seed(seed))


def test_graph_limit_is_normalised_in_float64() -> None:
    assert MIXED.limit.tolist() == [0.125, 0.25, 0.125, 0.5]
    assert MIXED.limit.dtype == torch.float64
    assert (MIXED.mask_token, MIXED.dim) == (3, 4)
    assert Graph(4, torch.ones(4)).mask_token is None
    for graph in (UniformGraph(3), AbsorbingGraph(3)):
        assert graph.limit.dtype == torch.float64
    wrong = [torch.ones(3, 3), torch.ones(4, 1), torch.ones(2), torch.zeros(3), torch.tensor([1.0, 2.0, -1.0])]
    for limit in (*wrong, torch.tensor([1.0, torch.inf, 1.0]), torch.tensor([-1.0, -1.0, -1.0])):
        with pytest.raises(SettingError, match="limit"):
            Graph(3, limit)


def test_graph_samples_follow_cumulative_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Graph(4, torch.tensor([0, 1, 2, 1]))
    draws = torch.tensor([0.0, 0.2499, 0.25, 0.5, 0.7499, 0.75, 0.9999, 1.0], dtype=torch.float64)
    asked = []

    def given(shape, generator, device):
        asked.append(generator)
        return draws

    monkeypatch.setattr(forward_process, "uniform", given)
    generator = torch.Generator()
    assert graph.sample_limit((8,), generator).tolist() == [1, 1, 2, 2, 2, 3, 3, 3]
    assert asked == [generator]
    thirds = Graph(7, torch.full((7,), 1 / 7, dtype=torch.float64))
    assert thirds.limit.cumsum(0)[-1] != 1
    draws = torch.tensor([1.0], dtype=torch.float64)
    assert thirds.sample_limit((1,)).tolist() == [6]


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: f"{type(graph).__name__}{graph.dim}")
def test_reverse_process_matches_formulas_in_float64(graph: Graph) -> None:
    score, x = random(B, L, graph.dim).float().exp(), tokens(graph)
    staggered = graph.staggered_score(score, SIGMA - EARLIER, SIGMA)
    grown = torch.exp(SIGMA - EARLIER)[:, None, None]
    dsigma = (SIGMA - EARLIER)[:, None].expand(B, L)
    mixed = graph.noise_between(dsigma, SIGMA[:, None].expand(B, L))
    torch.testing.assert_close(staggered, grown * (score.double() - mixed * score.double().sum(-1, keepdim=True)))
    nothing = graph.staggered_score(score, torch.zeros(B), SIGMA)
    torch.testing.assert_close(nothing, score.double(), rtol=1e-12, atol=1e-12)

    rates = graph.reverse_rate(x, score, SIGMA)
    torch.testing.assert_close(rates.sum(-1), torch.zeros(B, L, dtype=torch.float64), rtol=0, atol=1e-12)
    log_probs = torch.log_softmax(random(B, L, graph.dim, seed=2), -1).float()
    x_0 = torch.randint(graph.num_tokens, (B, L), generator=torch.Generator().manual_seed(3))
    for call in (
        lambda one: graph.staggered_score(one, SIGMA - EARLIER, SIGMA),
        lambda one: graph.reverse_rate(x, one, SIGMA),
        lambda one: graph.log_score_from_x0(one, x, SIGMA),
        lambda one: graph.log_x0_from_score(one, x, SIGMA),
        lambda one: graph.score_entropy(one, SIGMA, x, x_0),
    ):
        assert torch.equal(call(log_probs), call(log_probs.double()))
        assert call(log_probs).dtype == torch.float64


def test_x0_from_wrong_score_is_trace_or_uniform() -> None:
    graph = HybridGraph(3, 0.3)
    x, sigma = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, dtype=torch.float64)
    all_masks = torch.tensor([[[-torch.inf, -torch.inf, -torch.inf, 0.0]]])
    found = graph.log_x0_from_score(all_masks, x, sigma)
    torch.testing.assert_close(found[0, 0, :3].exp(), torch.full((3,), 1 / 3, dtype=torch.float64))
    assert found[0, 0, 3] == -torch.inf
    p = torch.tensor([0.9, 1e-5, 0.0, 0.1 - 1e-5], dtype=torch.float64)
    first, trace, none, _ = graph.log_x0_from_score(p.log()[None, None], x, sigma)[0, 0].tolist()
    assert none == -torch.inf
    left = 0.9 - float(graph.noise(sigma)[0, 0])
    assert trace - first == pytest.approx(math.log(_TRACE * 1e-5 / left), abs=1e-6)


def test_hybrid_limit_follows_odds() -> None:
    odds, mixture = torch.tensor(0.1, dtype=torch.float64), HybridMixture(0.3, 1.4)
    rest = float(mixture.replaced(odds)) + 1
    expected = torch.tensor([*[rest / 3] * 3, 0.1], dtype=torch.float64) / (rest + 0.1)
    torch.testing.assert_close(HybridGraph(3, 0.3, 1.4, 0.1).limit, expected, rtol=1e-13, atol=0)
    pace = LogLinearNoise(0.1)
    graph, _ = HybridGraph(3, 0.3, 1.4).at_pace(pace)
    own = HybridGraph(3, 0.3, 1.4, float(torch.expm1(pace.sigma(1.0))))
    assert torch.equal(graph.limit, own.limit)
    assert not torch.equal(graph.limit, HybridGraph(3, 0.3, 1.4).limit)


def test_discrete_time_on_grid_ends_its_step() -> None:
    noise = DiscreteNoise(4, "cosine")
    times = torch.tensor([1e-12, 0.25, 0.2500001, 0.5, 1.0], dtype=torch.float64)
    _, step, share = noise._locate(times)
    assert step.tolist() == [0, 0, 1, 1, 3]
    torch.testing.assert_close(share, times * 4 - step)
    ends = noise._invert(torch.tensor([0.0, float(-noise.table[-1].log())], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.tensor([0.0, 1.0], dtype=torch.float64), rtol=0, atol=1e-9)
    beyond = noise._invert(torch.tensor([float(-noise.table[-1].log()) + 1.0], dtype=torch.float64))
    assert torch.isfinite(beyond).all()


def test_divergence_terms_of_zero() -> None:
    zero, half, one = (torch.tensor([value], dtype=torch.float64) for value in (0.0, 0.5, 1.0))
    assert _divergence(zero, half).item() == 0.5
    assert _divergence(zero, zero).item() == 0
    assert _divergence(half, zero).item() == torch.inf
    assert _divergence(half, one).item() == pytest.approx(0.5 * math.log(0.5) - 0.5 + 1)
    assert _normalise(torch.zeros(1, 3, dtype=torch.float64)).tolist() == [[0.0] * 3]
    assert _normalise(torch.tensor([[1.0, 3.0]], dtype=torch.float64)).tolist() == [[0.25, 0.75]]


@pytest.mark.parametrize("graph", [UniformGraph(4), HybridGraph(3, 0.3)], ids=["uniform", "hybrid"])
def test_d3pm_step_is_kl_of_posteriors(graph: Graph) -> None:
    process = DiffusionProcess(*graph.at_pace(DiscreteNoise(5, "cosine")))
    loss = discrete_loss(process, None)
    assert type(loss) is D3pmLoss
    assert type(discrete_loss(DiffusionProcess(AbsorbingGraph(3), DiscreteNoise(5)), None)) is DiscreteSubsLoss
    x_t, x_0 = tokens(graph), torch.tensor([[0, 1, 2], [2, 2, 0]])
    output, t = random(B, L, process.graph.dim), torch.tensor([0.4, 1.0], dtype=torch.float64)
    sigma, earlier = process.schedule.sigma(t), process.schedule.sigma(t - 0.2)
    truth = torch.nn.functional.one_hot(x_0, process.graph.dim).double()
    distributions = []
    for clean in (truth, loss.parameterisation.log_x0(output, x_t, sigma).exp()):
        move, to = process.graph.reverse_posterior(clean, x_t, sigma, earlier)
        stay = torch.nn.functional.one_hot(x_t, process.graph.dim) * (1 - move)[..., None]
        distributions.append(move[..., None] * to / to.sum(-1, keepdim=True) + stay)
    divergence = torch.where(
        distributions[0] > 0, distributions[0] * (distributions[0] / distributions[1]).log(), 0.0
    ).sum(-1)
    torch.testing.assert_close(loss.diffusion(output, x_t, x_0, t), 5 * divergence)


def test_geometric_schedule_rate() -> None:
    noise = GeometricNoise(0.1, 5.0)
    assert float(noise.rate(0.5)) == pytest.approx(math.sqrt(0.5) * math.log(50))
    assert float(noise.inverse(noise.sigma(0.3))) == pytest.approx(0.3)


def test_schedule_inverse_accepts_ends_only_up_to_slack() -> None:
    for noise in (GeometricNoise(0.1, 5.0), CosineNoise(), LogLinearNoise()):
        low, high = (float(noise.sigma(t)) for t in (0.0, 1.0))
        assert float(noise.inverse(low)) == pytest.approx(0.0, abs=1e-9)
        assert float(noise.inverse(high)) == pytest.approx(1.0, abs=1e-9)


class Asked(torch.nn.Module):
    """Network whose output depends on condition and mask, and which records its inputs."""

    def forward(self, x_t, sigma, **more):
        self.more = more
        answer = random(*x_t.shape, 4) * (1 + sigma[:, None, None])
        for name in ("cond", "mask"):
            if more.get(name) is not None:
                answer = answer + more[name].double().reshape(len(x_t), -1, 1)
        return answer


def denoiser(graph: Graph, parameterisation=X0Parameterisation, **settings) -> Denoiser:
    return Denoiser(Asked(), parameterisation(graph), **settings)


def test_guidance_calls_network_with_and_without_condition() -> None:
    mask, cond = torch.tensor([[True, True, False], [True] * 3]), torch.tensor([1, 2])
    x, one = tokens(MIXED), torch.tensor([1])
    plain = denoiser(MIXED, cond=cond, guidance=0.0, mask=mask)
    plain.output(x, SIGMA)
    assert set(plain.network.more) == {"mask"}
    named = denoiser(MIXED, cond=cond, guidance=0.0, mask=mask, null_cond=torch.tensor([7, 7]))
    named.output(x, SIGMA)
    assert torch.equal(named.network.more["mask"], mask)
    assert named.network.more["cond"].tolist() == [7, 7]
    assert [denoiser(MIXED, cond=cond, guidance=value).calls for value in (0.0, 1.0, 2.0)] == [1, 1, 2]
    assert denoiser(MIXED, guidance=2.0).calls == 1
    guided = denoiser(MIXED, cond=cond, guidance=2.0, mask=mask)
    whole = denoiser(MIXED, cond=cond[1:], guidance=2.0, mask=mask[1:])
    assert torch.equal(guided.log_score(x[1:], SIGMA[1:], one), whole.log_score(x[1:], SIGMA[1:]))
    with pytest.raises(SettingError, match="temperature"):
        denoiser(MIXED, temperature=1e6 + 0.5)


@pytest.mark.parametrize("settings", [{"temperature": 0.5}, {"temperature": 2.0}, {"top_p": 0.6}], ids=str)
@pytest.mark.parametrize("parameterisation", [X0Parameterisation, ScoreParameterisation])
def test_temperature_and_top_p_act_on_x0_of_score(settings, parameterisation) -> None:
    graph = AbsorbingGraph(3)
    x = torch.full((B, L), 3)
    one, plain = denoiser(graph, parameterisation, **settings), denoiser(graph, parameterisation)
    output = one.output(x, SIGMA)
    probs = one._shape(one.parameterisation.log_x0(output, x, SIGMA))
    torch.testing.assert_close(one.log_score(x, SIGMA), graph.log_score_from_x0(probs, x, SIGMA))
    assert torch.equal(plain.log_score(x, SIGMA), plain.parameterisation.log_score(output, x, SIGMA))
    assert not torch.allclose(one.log_score(x, SIGMA)[..., :3], plain.log_score(x, SIGMA)[..., :3])


def test_temperature_divides_log_probabilities() -> None:
    probs = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64).log()
    torch.testing.assert_close(apply_temperature(probs, 2.0), torch.log_softmax(probs / 2, -1))


def test_remask_probability_is_at_most_unmasked_share() -> None:
    process = DiffusionProcess(AbsorbingGraph(3), LogLinearNoise())
    sampler = RemaskingSampler(process, denoiser(process.graph), 4, eta_rescale=0.4, eta_cap=0.9)
    sigma, earlier = torch.tensor([0.3, 2.0]), torch.tensor([0.1, 1.5])
    bound = [(1 - math.exp(-0.1)) * math.exp(0.3), 1.0]
    torch.testing.assert_close(sampler.remask_probability(sigma, earlier), 0.4 * torch.tensor(bound))
    capped = RemaskingSampler(process, denoiser(process.graph), 4, eta_cap=0.05)
    torch.testing.assert_close(capped.remask_probability(sigma, earlier), torch.tensor([0.05, 0.05]))


@pytest.mark.parametrize(
    "graph", [UniformGraph(4), HybridGraph(3, 0.3), AbsorbingGraph(3)], ids=["uniform", "hybrid", "masks"]
)
def test_tweedie_proposal_follows_bayes_rule_for_exact_score(graph: Graph) -> None:
    process = DiffusionProcess(*graph.at_pace(CosineNoise()))
    sampler = create_sampler("analytic", process, denoiser(process.graph), 4)
    x, log_probs = tokens(graph), torch.log_softmax(random(B, L, graph.dim), -1)
    log_probs[..., graph.num_tokens :] = -torch.inf
    log_probs = torch.log_softmax(log_probs, -1)
    score = process.graph.log_score_from_x0(log_probs, x, SIGMA).exp()
    proposal = sampler.tweedie(score, x, SIGMA, EARLIER)
    move, to = process.graph.reverse_posterior(log_probs.exp(), x, SIGMA, EARLIER)
    torch.testing.assert_close(proposal.move, move, rtol=1e-9, atol=1e-12)
    expected = to / to.sum(-1, keepdim=True)
    found = proposal.target / proposal.target.sum(-1, keepdim=True)
    torch.testing.assert_close(found[move > 1e-9], expected[move > 1e-9], rtol=1e-7, atol=1e-12)


def test_confidence_unmasks_none_where_alpha_is_constant() -> None:
    process = DiffusionProcess(AbsorbingGraph(3), LogLinearNoise())
    sampler = create_sampler("confidence", process, denoiser(process.graph), 8)
    generators = RowGenerators.from_generator(torch.Generator().manual_seed(0), 2)
    state = sampler.begin(start_state(process.graph, 2, 2, generators=generators))
    unmasked = []
    while not sampler.is_finished(state):
        before = (state.tokens == 3).sum(1)
        state = sampler.step(state)
        unmasked.append((before - (state.tokens == 3).sum(1)).tolist())
    assert unmasked == [[1, 1], [0, 0], [0, 0], [0, 0], [1, 1], [0, 0], [0, 0], [0, 0]]
