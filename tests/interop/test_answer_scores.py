"""Log-likelihoods of answers given contexts: a decoder's, a denoiser's bound and its chain rule, against enumerations."""

import itertools
from functools import cache
from math import exp, fsum

import pytest
import torch

from model_factory.evaluation.run import open_run
from model_factory.interop.denoiser_scores import BoundScorer, ChainScorer
from model_factory.interop.token_scores import DecoderScorer, Pair, Score, windows
from model_factory.training.errors import UnfitError
from tests.interop.harness_runs import MODELS, decoder_run, harness_run

PAIR = Pair((5, 6), (7, 8, 9, 10))
OTHERS = [Pair((), (5,)), Pair((9,), (6, 7)), Pair((4, 5, 6), (7, 8, 9)), Pair((8,), (8, 8, 8, 8))]


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Open an untrained run of each model, with random weights in all layers."""

    @cache
    def open_one(name: str):
        folder = tmp_path_factory.mktemp(name)
        found = open_run(decoder_run(folder) if name == "decoder" else harness_run(folder, MODELS[name]))
        generator = torch.Generator().manual_seed(1)
        for parameter in found.model.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5
        return found

    return open_one


def log_prob(run, pair: Pair, hidden: tuple[int, ...], place: int) -> float:
    """Return log p of the token at a place of an answer, of which the places `hidden` are masked."""
    model, first = run.model, len(pair.context)
    ids = torch.tensor([[*pair.context, *pair.answer]])
    x_t = ids.clone()
    x_t[0, [first + other for other in hidden]] = model.num_tokens
    if model.block_size is not None:
        x_t = torch.cat([x_t, ids], 1)
    with torch.no_grad():
        logits = model.denoise(x_t, 1.0)[0, first + place, : model.num_tokens]
    return float(torch.log_softmax(logits.double(), -1)[pair.answer[place]])


def enumerated(run, pair: Pair, groups: list[list[int]]) -> float:
    """Return the mean over all orders of the chain rule, in which groups of places keep their order."""
    total = 0.0
    for number, group in enumerate(groups):
        later = [place for other in groups[number + 1 :] for place in other]
        orders = list(itertools.permutations(group))
        terms = [
            log_prob(run, pair, (*order[turn:], *later), order[turn]) for order in orders for turn in range(len(order))
        ]
        total += fsum(terms) / len(orders)
    return total


@pytest.mark.parametrize(("draws", "least"), [(128, 93), (32, 90)])
def test_bound_covers_the_mean_over_orders(opened, draws: int, least: int) -> None:
    """With four tokens there are 24 orders."""
    run = opened("mdlm")
    truth = enumerated(run, PAIR, [[0, 1, 2, 3]])
    found = [BoundScorer(run, 24, 128, draws=draws, seed=seed).score([PAIR])[0] for seed in range(100, 200)]
    errors = [score.standard_error or 0.0 for score in found]
    covered = sum(abs(score.log_likelihood - truth) <= 1.96 * error for score, error in zip(found, errors, strict=True))
    assert covered >= least
    assert fsum(score.log_likelihood for score in found) / 100 == pytest.approx(truth, abs=3 * max(errors) / 10)
    assert max(errors) < 2.0


def test_bound_of_blocks_cuts_the_first_at_the_context(opened) -> None:
    """Blocks of three tokens after a context of two: the answer's first token is alone in its block."""
    run = opened("bd3lm")
    truth = enumerated(run, PAIR, [[0], [1, 2, 3]])
    found = BoundScorer(run, 24, 128, draws=4096).score([PAIR])[0]
    assert found.standard_error
    assert abs(found.log_likelihood - truth) <= 4 * found.standard_error < 0.5


@pytest.mark.parametrize("name", ["bd3lm", "udlm", "gidd", "sedd"])
def test_bound_is_the_loss_given_the_context(opened, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of the model in evaluation, over rows with the context given, is another estimate of the same bound."""
    run, rows = opened(name), 2000
    monkeypatch.setattr(run.model, "objective", run.model.objective.by_counts() or run.model.objective)
    ids = torch.tensor([[*PAIR.context, *PAIR.answer]]).expand(rows, -1)
    response = torch.arange(6).expand(rows, -1) >= 2
    with torch.no_grad():
        loss = run.model(ids, response_mask=response, seed=3).loss
    found = BoundScorer(run, 24, 500, draws=rows, seed=4).score([PAIR])[0]
    assert found.standard_error
    assert abs(found.log_likelihood + 4 * float(loss)) <= 6 * found.standard_error


def test_bound_of_one_token_has_one_draw(opened) -> None:
    run, pair = opened("mdlm"), Pair((5, 6), (7,))
    found = BoundScorer(run, 24, 8, draws=64).score([pair])[0]
    assert found.log_likelihood == pytest.approx(log_prob(run, pair, (0,), 0), abs=1e-6)
    assert found.standard_error == 0.0
    assert BoundScorer(run, 24, 8, draws=1).score([PAIR])[0].standard_error is None


@pytest.mark.parametrize(
    ("name", "order"), [("mdlm", "left"), ("mdlm", "random"), ("sedd", "random"), ("bd3lm", "random")]
)
def test_chain_sums_to_one_over_all_texts(opened, name: str, order: str) -> None:
    run = opened(name)
    tokens = range(run.model.num_tokens)
    pairs = [Pair((5, 6), answer) for answer in itertools.product(tokens, repeat=2)]
    found = ChainScorer(run, 24, 512, order=order).score(pairs)
    assert len(pairs) > 900
    assert fsum(exp(score.log_likelihood) for score in found) == pytest.approx(1.0, abs=1e-6)
    assert {score.standard_error for score in found} == {0.0}


def test_chain_is_the_chain_rule_along_its_order(opened) -> None:
    run = opened("mdlm")
    left = fsum(log_prob(run, PAIR, tuple(range(turn, 4)), turn) for turn in range(4))
    assert ChainScorer(run, 24, 8).score([PAIR])[0].log_likelihood == pytest.approx(left, abs=1e-5)
    chains = [
        fsum(log_prob(run, PAIR, order[turn:], order[turn]) for turn in range(4))
        for order in itertools.permutations(range(4))
    ]
    drawn = {ChainScorer(run, 24, 8, order="random", seed=seed).score([PAIR])[0].log_likelihood for seed in range(6)}
    assert len(drawn) > 1
    assert all(min(abs(one - other) for other in chains) < 1e-5 for one in drawn)
    blocks = opened("bd3lm")
    [score] = ChainScorer(blocks, 24, 8).score([PAIR])
    assert score.log_likelihood == pytest.approx(enumerated(blocks, PAIR, [[0], [1], [2], [3]]), abs=1e-5)


def test_greedy_answers_are_the_likeliest(opened) -> None:
    run, model = opened("mdlm"), opened("mdlm").model
    x_t = torch.tensor([[5, 6, *[model.num_tokens] * 3]])
    with torch.no_grad():
        at_once = tuple(model.denoise(x_t, 1.0)[0, 2:, : model.num_tokens].argmax(-1).tolist())
        for place in range(2, 5):
            x_t[0, place] = model.denoise(x_t, 1.0)[0, place, : model.num_tokens].argmax()
    in_turn = tuple(x_t[0, 2:].tolist())
    assert at_once != in_turn
    pairs = [Pair((5, 6), at_once), Pair((5, 6), in_turn)]
    assert [score.is_greedy for score in BoundScorer(run, 24, 8, draws=2).score(pairs)] == [True, False]
    assert [score.is_greedy for score in ChainScorer(run, 24, 8).score(pairs)] == [False, True]


def test_chain_needs_masks(opened) -> None:
    for name in ("udlm", "gidd"):
        with pytest.raises(UnfitError, match="likelihood=bound"):
            ChainScorer(opened(name), 24, 8)


@pytest.mark.parametrize("name", ["decoder", *MODELS])
def test_score_depends_on_no_other_pair_nor_on_batches(opened, name: str) -> None:
    run = opened(name)

    def scorers(size: int) -> list:
        if name == "decoder":
            return [DecoderScorer(run, 24, size)]
        bound = BoundScorer(run, 24, size, draws=8)
        return [bound] if name in ("udlm", "gidd") else [bound, ChainScorer(run, 24, size, order="random")]

    pairs = [PAIR, *OTHERS] if name != "decoder" else [PAIR, *OTHERS[1:]]
    for one, eight in zip(scorers(1), scorers(8), strict=True):
        alone = [one.score([pair])[0] for pair in pairs]
        backwards = eight.score(pairs[::-1])[::-1]
        for score, other in zip(alone, backwards, strict=True):
            assert score.log_likelihood == pytest.approx(other.log_likelihood, abs=1e-5)
            assert score.is_greedy == other.is_greedy
        assert one.score(pairs) == alone


def test_filled_rows_leave_open_what_follows(opened) -> None:
    """In a run that fills rows with end tokens, masks follow the answer up to the length of rows."""
    run, masks = opened("mdlm"), [opened("mdlm").model.num_tokens] * 3
    with torch.no_grad():
        logits = run.model.denoise(torch.tensor([[5, *masks]]), 1.0)[0, 1, : run.model.num_tokens]
    truth = float(torch.log_softmax(logits.double(), -1)[7])
    pair = Pair((5,), (7,))
    for scorer in (ChainScorer(run, 24, 8, canvas=4), BoundScorer(run, 24, 8, draws=2, canvas=4)):
        assert scorer.score([pair])[0].log_likelihood == pytest.approx(truth, abs=1e-5)


def test_windows_cut_contexts_and_long_answers() -> None:
    def shapes(*sizes: int, limit: int = 5) -> list[tuple[int, int, int]]:
        pair = Pair(tuple(range(sizes[0])), tuple(range(10, 10 + sizes[1])))
        found = windows(pair, limit)
        assert tuple(token for window in found for token in window.answer) == pair.answer
        assert all(len(window) <= limit for window in found)
        return [(len(window.context), len(window.answer), window.cut) for window in found]

    assert shapes(2, 3) == [(2, 3, 0)]
    assert shapes(9, 3) == [(2, 3, 7)]
    assert shapes(1, 4) == [(1, 4, 0)]
    assert shapes(0, 5) == [(0, 5, 0)]
    assert shapes(3, 5) == [(1, 4, 2), (4, 1, 0)]
    assert shapes(1, 9) == [(1, 4, 0), (1, 4, 0), (4, 1, 0)]
    assert shapes(0, 6) == [(0, 5, 0), (4, 1, 0)]
    joined = Score.join([Score(-1.0, True, 3.0), Score(-2.0, False, 4.0)])
    assert joined == Score(-3.0, False, 5.0)
    assert Score.join([Score(-1.0, True, None), Score(-1.0, True, 0.0)]).standard_error is None
