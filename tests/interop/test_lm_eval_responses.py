"""Runs on prompts and responses in lm-evaluation-harness: contexts are prompts, answers are responses."""

import json

import pytest

pytest.importorskip("lm_eval", reason="the extra 'eval' is not installed")

from lm_eval.api.instance import Instance

from model_factory.evaluation.rows import load_split
from model_factory.evaluation.run import open_run
from model_factory.interop.lm_eval import ModelFactoryLM
from model_factory.training.errors import UnfitError
from tests.evaluation.untrained_runs import DECODER, MDLM, make_run, text_data

FACTS = [{"question": f"what is in {place}", "answer": word} for place, word in [("a", "x"), ("b", "yz")]]
TALK = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]


def table(folder, rows, **keys) -> list[dict]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = dict.fromkeys(("train", "test"), str(folder / "a.jsonl"))
    return [{"name": "a", "source": "json", "data_files": files, "sequence_length": 40} | keys]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    facts = table(folder / "facts", FACTS, template="{question}?\n{answer:response}")
    talks = table(folder / "talks", [{"messages": TALK}], messages="messages")
    made = {
        "facts": (MDLM, facts, "diffusion"),
        "decoder": (DECODER, facts, "language_modelling"),
        "talks": (MDLM, talks, "diffusion"),
        "plain": (MDLM, text_data(folder / "text"), "diffusion"),
    }
    return {name: make_run(folder / f"{name}-run", *parts) for name, parts in made.items()}


def row_of(run, number: int) -> tuple[list[int], list[int]]:
    """Return the given tokens and the response, without its end, of a row of the training data."""
    [batch] = load_split(run, "train", max_rows=None, seed=0).batches("train", 4)
    ids, marks = (batch[name][number].tolist() for name in ("input_ids", "response_mask"))
    first = marks.index(True)
    return ids[:first], ids[first : ids.index(run.tokenizer.eos_token_id, first)]


@pytest.mark.parametrize("kind", ["facts", "decoder"])
def test_context_and_answer_have_the_tokens_of_a_row(runs, kind: str) -> None:
    lm = ModelFactoryLM(pretrained=str(runs[kind]))
    for number, fact in enumerate(FACTS):
        pair = lm.texts.pair(fact["question"], " " + fact["answer"])
        assert (list(pair.context), list(pair.answer)) == row_of(lm.run, number)


def test_messages_are_encoded_as_in_training(runs) -> None:
    lm = ModelFactoryLM(pretrained=str(runs["talks"]))
    text = lm.apply_chat_template(TALK[:1])
    pair = lm.texts.pair(text, "good day")
    assert (list(pair.context), list(pair.answer)) == row_of(lm.run, 0)
    assert lm.texts.pair("hello", "good day") == pair
    with pytest.raises(UnfitError, match="gen_prefix"):
        lm.apply_chat_template(TALK, add_generation_prompt=False)
    with pytest.raises(UnfitError, match="was not trained on messages"):
        ModelFactoryLM(pretrained=str(runs["plain"])).apply_chat_template(TALK[:1])


def test_filled_rows_keep_their_length(runs) -> None:
    """A response is written on the rest of a row, and masks follow an answer that is scored."""
    run = open_run(runs["facts"])
    lm = ModelFactoryLM(pretrained=str(runs["facts"]), likelihood="chain", overrides="generation.steps=3")
    seen = []
    hook = lm.run.model.network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    lm.loglikelihood([Instance("loglikelihood", {}, ("what is in a", " x"), 0, ("task", 0, 1))])
    hook.remove()
    [ids] = [one for one in seen if isinstance(one, type(seen[0]))][:1]
    before, _ = row_of(run, 0)
    assert ids.shape == (1, 40)
    assert ids[0].tolist() == [*before, *[run.model.num_tokens] * (40 - len(before))]
    [text] = lm.generate_until([Instance("generate_until", {}, ("what is in a", {"until": []}), 0, ("task", 0, 1))])
    assert len(run.tokenizer.encode(text)) <= 40 - len(before)


def test_texts_without_prompts_are_refused(runs) -> None:
    lm = ModelFactoryLM(pretrained=str(runs["facts"]))
    with pytest.raises(UnfitError, match="the likelihood of whole texts"):
        lm.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, ("text",), 0, ("task", 0, 1))])
