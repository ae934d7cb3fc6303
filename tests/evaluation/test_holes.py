"""Holes of unknown length in prompts: the response is put between the texts, and ends at the first end token."""

import json

import pytest
import torch

from model_factory.cli.evaluate import main as evaluate
from model_factory.evaluation.run import open_run
from model_factory.evaluation.sampling.discrete import read_prompt, read_sample
from model_factory.evaluation.sampling.draw import draw
from model_factory.evaluation.sampling.prompt import PromptError
from model_factory.evaluation.sampling.sample import Request
from tests.evaluation.untrained_runs import BACKBONE, DECODER, MDLM, make_run, text_data

BLOCKS = {**MDLM, "objective": {"type": "bd3lm", "block_size": 4}, "backbone": {**BACKBONE, "type": "ddit"}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    holes = {"sequence_length": 100, "documents": "line", "infill": {}}
    made = {"holes": (MDLM, holes), "blocks": (BLOCKS, holes), "plain": (MDLM, {}), "decoder": (DECODER, holes)}
    tasks = dict.fromkeys(made, "diffusion") | {"decoder": "language_modelling"}
    return {
        name: open_run(make_run(folder / name, model, text_data(folder / name, **data), tasks[name]))
        for name, (model, data) in made.items()
    }


@pytest.mark.parametrize("kind", ["holes", "blocks", "decoder"])
def test_text_around_a_hole_is_kept(runs, kind):
    found = draw(runs[kind], Request(("the [[*]] dog", "over"))).samples
    assert len(found) == 6
    assert all(one.text.startswith("the ") and one.text.endswith(" dog") for one in found[:3])
    assert all(one.text.startswith("over") for one in found[3:])
    assert len({one.text for one in found}) > 4


def test_response_ends_at_its_first_end_token(runs):
    run, tokenizer = runs["holes"], runs["holes"].require_tokenizer()
    template = read_prompt(run, "the [[*]] dog", 100)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    given = [bos, *tokenizer.encode("the "), bos, *tokenizer.encode(" dog"), bos]
    assert template.tokens[: len(given)] == given
    assert template.kept == [True] * len(given) + [False] * (100 - len(given))
    response = [*tokenizer.encode("lazy"), eos, *tokenizer.encode("fox"), eos]
    sample = read_sample(run, [*given, *response], None, 3, template)
    assert sample.text == "the lazy dog"
    assert sample.tokens == tokenizer.encode("lazy")


def test_hole_with_a_number_has_at_most_that_many_tokens(runs):
    run = runs["holes"]
    template = read_prompt(run, "the [[4]] dog", 100)
    first = template.kept.index(False)
    assert template.kept[first:] == [False] * 4 + [True] * (100 - first - 4)
    assert set(template.tokens[first + 4 :]) == {run.require_tokenizer().eos_token_id}
    found = draw(run, Request(("the [[4]] dog",))).samples
    assert all(len(one.tokens) <= 4 for one in found)


def test_sample_without_a_prompt_is_a_whole_text(runs):
    template = read_prompt(runs["holes"], None, 100)
    assert template.tokens[: template.kept.index(False)] == [runs["holes"].require_tokenizer().bos_token_id] * 3
    assert len(draw(runs["holes"], Request()).samples) == 3


@pytest.mark.parametrize(
    ("kind", "prompt", "message"),
    [
        ("plain", "the [[*]] dog", "was not trained on rows with such holes.*as in \\[\\[12\\]\\]"),
        ("holes", "the [[*]] dog [[*]]", "several holes"),
        ("holes", "the [[*]] dog [[3]]", "several holes"),
        ("holes", "the [[]] dog", "write \\[\\[\\*\\]\\]"),
        ("holes", "the [[*] dog", "a hole of 12 tokens is"),
        ("holes", "the [[99]] dog", "a row of this run has 100 with its response"),
        ("holes", "x" * 97, "takes 100 tokens, and a row of this run has 100"),
        ("blocks", "the [[2]] dog", "text of the prompt is in a later block"),
        ("decoder", "the [[3]] dog", "a hole has no size"),
    ],
)
def test_holes_that_do_not_fit_the_run_are_refused(runs, kind, prompt, message):
    with pytest.raises(PromptError, match=message):
        draw(runs[kind], Request((prompt,)))


def test_text_is_drawn_to_the_canvas_of_the_rows(runs):
    """A row of infill has no drawn length, as other rows of whole documents have."""
    found = draw(runs["holes"], Request(("the [[*]] dog",), seed=1))
    assert torch.tensor([one.network_calls for one in found.samples]).eq(100 - 4 - 4 - 3).all()


def test_run_on_holes_is_measured_on_other_texts(runs, tmp_path, capsys):
    (tmp_path / "other.txt").write_text("the fox jumps\nthe dog does not mind\n")
    words = ["--run", str(runs["holes"].folder), "--data", str(tmp_path / "other.txt"), "--json"]
    assert evaluate(words) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["rows"] == 2
    assert {"bits_per_token", "nats_per_row", "entropy"} <= {figure["name"] for figure in result["figures"]}
