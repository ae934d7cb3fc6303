"""Watched draws: the texts of a batch while it is drawn, and a watch that ends the draw."""

from itertools import pairwise

import pytest

from model_factory.evaluation.run import open_run
from model_factory.evaluation.sampling.draw import draw
from model_factory.evaluation.sampling.sample import MASKED, Request
from tests.evaluation.untrained_runs import DECODER, LATENT, MDLM, PAIR, make_run, pair_data, text_data

UNIFORM = {**MDLM, "process": {"type": "uniform"}, "objective": {"type": "sedd"}}
INSERTS = {**MDLM, "objective": {"type": "flexmdm"}}
MODELS = {
    "decoder": (DECODER, text_data, "language_modelling", ["the dog"]),
    "translator": (PAIR, pair_data, "translation", ["the quick"]),
    "mdlm": (MDLM, text_data, "diffusion", ["the [[5]] dog"]),
    "documents": (
        MDLM,
        lambda folder: text_data(folder, documents="line", rows="whole", sequence_length=100),
        "diffusion",
        [],
    ),
    "sedd": (UNIFORM, text_data, "diffusion", ["the"]),
    "flexmdm": (
        INSERTS,
        lambda folder: text_data(folder, documents="line", rows="whole", sequence_length=100),
        "diffusion",
        [],
    ),
    "latent": (
        LATENT,
        lambda folder: text_data(folder, documents="line", rows="whole", sequence_length=90),
        "latent_diffusion",
        [],
    ),
    "targets": (MDLM, lambda folder: pair_data(folder, sequence_length=40), "conditional_diffusion", ["the quick"]),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {
        name: make_run(folder / name, model, data(folder / name), task)
        for name, (model, data, task, _) in MODELS.items()
    }


@pytest.mark.parametrize("kind", MODELS)
def test_watch_sees_each_step_and_the_last_is_the_text(runs, kind):
    run, prompts, shown = open_run(runs[kind]), tuple(MODELS[kind][3]), []
    found = draw(run, Request(prompts, watch=lambda read: shown.append(read()))).samples
    assert found == draw(run, Request(prompts)).samples
    assert [one.text for one in shown[-1]] == [sample.text for sample in found]
    assert len(shown) > 3
    counts = [[one.masked for one in partial] for partial in shown]
    if kind in ("mdlm", "documents", "targets"):
        assert all(later <= earlier for row in zip(*counts, strict=True) for earlier, later in pairwise(row))
        assert sum(counts[0]) > 0
        assert shown[0][0].text.count(MASKED) == counts[0][0]
    assert sum(counts[-1]) == 0
    if kind == "mdlm":
        assert all(one.text.startswith("the ") and " dog" in one.text for one in shown[0])


def test_watch_of_beam_search_sees_the_best_beam(runs):
    run, shown = open_run(runs["decoder"], ["generation.num_beams=3"]), []
    (first, *_) = draw(run, Request(("the dog",), watch=lambda read: shown.append(read()[0].text))).samples
    assert len(shown) == 8
    assert shown[-1] == first.text


@pytest.mark.parametrize("kind", MODELS)
def test_error_of_a_watch_ends_the_draw(runs, kind):
    class GoneError(Exception):
        pass

    calls = []

    def leave(read):
        calls.append(1)
        if len(calls) == 2:
            raise GoneError

    run = open_run(runs[kind])
    with pytest.raises(GoneError):
        draw(run, Request(tuple(MODELS[kind][3]), watch=leave))
    assert len(calls) == 2
    assert not run.model.training


def test_decoder_draws_several_batches(runs):
    run = open_run(runs["decoder"], ["generation.num_samples=3"])
    assert len(draw(run, Request(("the dog",), batch_size=2)).samples) == 3
