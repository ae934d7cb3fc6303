"""Oracle tests 1 to 3: transitions, the zero of the score entropy, the exact step back."""

import pytest
import torch

from model_factory.diffusion.processes.forward_process import Graph
from model_factory.diffusion.processes.graph import AbsorbingGraph, UniformGraph
from tests.oracles.diffusion_toy import VOCABULARY, Toy

SIGMAS = [1e-3, 1e-2, 0.1, 0.5, 1.0, 3.0, 6.0]
LEVELS = [*SIGMAS, 20.0, 60.0]


def graph_of(absorbing: bool) -> Graph:
    return AbsorbingGraph(VOCABULARY) if absorbing else UniformGraph(VOCABULARY)


def level(sigma: float, rows: int) -> torch.Tensor:
    return torch.full((rows,), sigma, dtype=torch.float64)


@pytest.mark.parametrize("absorbing", [False, True])
@pytest.mark.parametrize("sigma", LEVELS)
def test_transition_is_the_matrix_exponential_of_the_rate(absorbing: bool, sigma: float) -> None:
    graph, toy = graph_of(absorbing), Toy.random(0, absorbing)
    tokens = torch.arange(graph.dim)[:, None]
    rate = graph.rate(tokens)[:, 0]
    torch.testing.assert_close(rate, toy.rate_matrix, atol=0, rtol=0)
    torch.testing.assert_close(graph.rate_into(tokens)[:, 0].T, rate, atol=0, rtol=0)
    expected = torch.matrix_exp(sigma * rate)
    torch.testing.assert_close(graph.transition(tokens, level(sigma, graph.dim))[:, 0], expected, atol=1e-12, rtol=0)
    into = graph.transition_into(tokens, level(sigma, graph.dim))[:, 0].T
    torch.testing.assert_close(into, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(toy.kernel(torch.tensor(sigma, dtype=torch.float64)), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("absorbing", [False, True])
def test_transitions_form_a_semigroup(absorbing: bool) -> None:
    graph = graph_of(absorbing)
    tokens = torch.arange(graph.dim)[:, None]

    def matrix(sigma: float) -> torch.Tensor:
        return graph.transition(tokens, level(sigma, graph.dim))[:, 0]

    for first in SIGMAS:
        for second in SIGMAS:
            torch.testing.assert_close(matrix(first) @ matrix(second), matrix(first + second), atol=1e-12, rtol=0)


@pytest.mark.parametrize("absorbing", [False, True])
@pytest.mark.parametrize("sigma", LEVELS)
def test_score_entropy_and_its_gradient_vanish_at_the_true_ratio(absorbing: bool, sigma: float) -> None:
    graph = graph_of(absorbing)
    pairs = torch.cartesian_prod(torch.arange(VOCABULARY), torch.arange(graph.dim))
    x_0, x_t = pairs[:, :1], pairs[:, 1:]
    if absorbing:  # other pairs cannot occur
        possible = ((x_t == x_0) | (x_t == VOCABULARY))[:, 0]
        x_0, x_t = x_0[possible], x_t[possible]
    sigmas = level(sigma, len(x_0))
    q = graph.transition(x_0, sigmas)
    score = q / q.gather(-1, x_t[..., None])
    log_score = score.log().clamp_min(-1e4).requires_grad_()
    loss = graph.score_entropy(log_score, sigmas, x_t, x_0)
    (gradient,) = torch.autograd.grad(loss.sum(), log_score)
    assert loss.shape == x_t.shape
    assert float(loss.detach().abs().max()) < 1e-8
    assert float(gradient.abs().max()) < 1e-8


@pytest.mark.parametrize("absorbing", [False, True])
@pytest.mark.parametrize("sigma", SIGMAS)
def test_score_entropy_matches_formula_of_paper(absorbing: bool, sigma: float) -> None:
    graph = graph_of(absorbing)
    pairs = torch.cartesian_prod(torch.arange(VOCABULARY), torch.arange(graph.dim))
    x_0, x_t = pairs[:, :1], pairs[:, 1:]
    generator = torch.Generator().manual_seed(3)
    log_s = torch.randn(len(pairs), 1, graph.dim, generator=generator, dtype=torch.float64)
    sigmas = level(sigma, len(pairs))
    r, n = 1 / torch.expm1(torch.tensor(sigma, dtype=torch.float64)), VOCABULARY
    rho = 1 - n / (torch.expm1(torch.tensor(sigma, dtype=torch.float64)) + n)
    expected = []
    for (clean, noisy), row in zip(pairs.tolist(), log_s[:, 0], strict=True):
        others = [y for y in range(n) if y != noisy]
        if absorbing:
            loss = row[others].exp().sum() - r * row[clean] + r * (r.log() - 1)
            expected.append(loss if noisy == n else torch.zeros_like(loss))
            continue
        positive = row[others].exp().sum() / n
        if noisy == clean:
            expected.append(positive - rho / n * row[others].sum() + (n - 1) / n * rho * (rho.log() - 1))
        else:
            rest = ((-rho.log() - 1) / rho - (n - 2)) / n
            expected.append(positive - row[others].sum() / n - r * row[clean] + rest)
    loss = graph.score_entropy(log_s, sigmas, x_t, x_0)[:, 0]
    torch.testing.assert_close(loss, torch.stack(expected), atol=1e-9, rtol=1e-12)


@pytest.mark.parametrize("absorbing", [False, True])
@pytest.mark.parametrize(("sigma", "dsigma"), [(0.01, 0.005), (0.5, 0.5), (1.0, 0.3), (3.0, 2.0), (6.0, 6.0)])
def test_staggered_score_and_token_posterior_are_exact(absorbing: bool, sigma: float, dsigma: float) -> None:
    graph, toy = graph_of(absorbing), Toy.random(1, absorbing)
    now, step = torch.tensor(sigma, dtype=torch.float64), torch.tensor(dsigma, dtype=torch.float64)
    states, score = toy.states, toy.scores(now)
    staggered = graph.staggered_score(score, step.expand(len(states)))
    # Changing position l alone back in time: exp(-dsigma Q) applied to that position of p_sigma.
    back = torch.linalg.inv(toy.kernel(step))
    expected = score @ back
    torch.testing.assert_close(staggered, expected, atol=1e-12 * max(1.0, float(expected.max())), rtol=0)

    weights = staggered * graph.transition_into(states, step.expand(len(states)))
    tweedie = weights / weights.sum(-1, keepdim=True)
    forward = toy.kernel(step)[:, states.T].permute(2, 1, 0)  # q(x_t[l] | y), [S, 3, dim]
    joint = torch.einsum("abc,na,nb,nc->nabc", toy.marginal(now - step), *forward.unbind(1))
    exact = torch.stack([joint.sum((2, 3)), joint.sum((1, 3)), joint.sum((1, 2))], 1)
    torch.testing.assert_close(tweedie, exact / exact.sum(-1, keepdim=True), atol=1e-12, rtol=0)


def test_constant_mixture_is_a_valid_process() -> None:
    graph = Graph(3, torch.tensor([0.1, 0.1, 0.1, 0.7], dtype=torch.float64))
    tokens, sigmas = torch.arange(4)[:, None], level(0.7, 4)
    rate = graph.rate(tokens)[:, 0]
    torch.testing.assert_close(graph.transition(tokens, sigmas)[:, 0], torch.matrix_exp(0.7 * rate))
    q = graph.transition(tokens, sigmas)
    log_score = (q / q.gather(-1, torch.full((4, 1, 1), 3))).log()
    loss = graph.score_entropy(log_score, sigmas, torch.full((4, 1), 3), tokens)
    assert float(loss.abs().max()) < 1e-12
