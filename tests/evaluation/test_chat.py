"""`generate.py --chat`, questions from files, and the figures of responses: prompts are what the rows were made of."""

import io
import json
import os
import sys

import pytest
import torch

from data_manager.data_manager import DatasetManager
from model_factory.cli import live_text
from model_factory.cli.evaluate import main as evaluate
from model_factory.cli.generate import main
from model_factory.evaluation.metrics.responses import last_responses
from model_factory.evaluation.run import open_run
from model_factory.evaluation.sampling.chat import Chat
from model_factory.evaluation.sampling.draw import draw
from model_factory.evaluation.sampling.given import read_given
from model_factory.evaluation.sampling.prompt import PromptError
from model_factory.evaluation.sampling.sample import Request
from model_factory.training.errors import UnfitError
from tests.data_manager.response_tables import CHATML, CHATML_TOKENS, chat_tokenizer
from tests.evaluation.untrained_runs import DECODER, MDLM, STACK, make_run, text_data

LENGTH = 80
TALK = [("user", "hello"), ("assistant", "good day"), ("user", "and you?"), ("assistant", "fine")]
FACTS = [
    {"place": place, "question": f"what is in {place}", "answer": word} for place, word in [("a", "x"), ("b", "yz")]
]


def table(folder, rows, **keys):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = dict.fromkeys(("train", "test"), str(folder / "a.jsonl"))
    return [{"name": "a", "source": "json", "data_files": files, "sequence_length": LENGTH} | keys]


def talks(folder):
    messages = [{"role": role, "content": content} for role, content in TALK]
    return table(folder, [{"messages": messages}, {"messages": messages[:2]}], messages="messages")


def facts(folder):
    return table(folder, FACTS, template="{place}: {question}?\n{answer:response}", sequence_length=30)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    short = {**DECODER, "decoder": {**STACK, "max_length": LENGTH}}
    made = {
        "chat": (MDLM, talks, "diffusion"),
        "decoder": (short, talks, "language_modelling"),
        "facts": (MDLM, facts, "diffusion"),
        "answers": (DECODER, facts, "language_modelling"),
        "plain": (MDLM, text_data, "diffusion"),
    }
    return {
        name: make_run(folder / name, model, data(folder / name), task) for name, (model, data, task) in made.items()
    }


def watching(shown):
    return Request(watch=lambda read: shown.append(read()[0].text))


def said(capsys, monkeypatch, turns, *words, code=0):
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{turn}\n" for turn in turns)))
    assert main([*map(str, words), "--chat"]) == code
    return capsys.readouterr()


def row_before_last_response(run, index):
    """Return the tokens of a row of the training data before its last response."""
    data = DatasetManager.load_dataset(run.dataset_config)["train"]
    row = data[index]
    first = int(last_responses(torch.tensor([row["response_mask"]])).long().argmax())
    return list(row["input_ids"])[:first]


@pytest.mark.parametrize("kind", ["chat", "decoder"])
def test_conversation_is_encoded_as_in_training(runs, kind):
    run = open_run(runs[kind])
    messages = [{"role": role, "content": content} for role, content in TALK]
    for index, given in enumerate((messages[:3], messages[:1])):
        assert read_given(run, given).ids == row_before_last_response(run, index)
    assert read_given(run, "hello") == read_given(run, messages[:1])


def test_conversation_of_a_chat_template_is_encoded_as_in_training(tmp_path):
    tokenizer = chat_tokenizer(tmp_path, CHATML, **CHATML_TOKENS).model_dump(exclude_unset=True)
    run = open_run(make_run(tmp_path, MDLM, [{**talks(tmp_path)[0], "tokenizer": tokenizer}], "diffusion"))
    messages = [{"role": role, "content": content} for role, content in TALK]
    for index, given in enumerate((messages[:3], messages[:1])):
        assert read_given(run, given).ids == row_before_last_response(run, index)
    chat = Chat(run, Request())
    assert "<|" not in chat.answer("hello").text
    with pytest.raises(PromptError, match=r"message 3 \(user\) holds '<\|im_end\|>'"):
        chat.answer("x<|im_end|>")
    assert len(chat.messages) == 2


@pytest.mark.parametrize("kind", ["facts", "answers"])
def test_columns_are_encoded_as_in_training(runs, kind):
    run = open_run(runs[kind])
    for index, row in enumerate(FACTS):
        given = {"place": row["place"], "question": row["question"]}
        assert read_given(run, given).ids == row_before_last_response(run, index)
        assert read_given(run, json.dumps(given)) == read_given(run, given)
    with pytest.raises(PromptError, match="have the columns place, question; give them as a JSON object"):
        read_given(run, "what")
    with pytest.raises(PromptError, match="there is no column 'question'"):
        read_given(run, {"place": "a"})
    with pytest.raises(PromptError, match="needs a text to respond to: --prompt TEXT"):
        read_given(run, None)


@pytest.mark.parametrize("kind", ["chat", "decoder"])
def test_chat_of_a_pipe_answers_each_turn(runs, capsys, monkeypatch, kind):
    out, err = said(capsys, monkeypatch, ["hello", "", "and you?", "/quit", "more"], "--run", runs[kind], "--json")
    first, second = map(json.loads, out.splitlines())
    assert [first["line"], first["user"], second["line"], second["user"]] == [1, "hello", 3, "and you?"]
    run = open_run(runs[kind])
    chat = Chat(run, Request())
    assert [chat.answer("hello").text, chat.answer("and you?").text] == [first["assistant"], second["assistant"]]
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 2
    assert first["assistant"] != Chat(run, Request(seed=1)).answer("hello").text
    plain = said(capsys, monkeypatch, ["hello"], "--run", runs[kind]).out
    assert plain == first["assistant"] + "\n"
    assert "\x1b" not in out
    assert "on cpu" in err


def test_clear_forgets_the_conversation(runs, capsys, monkeypatch):
    run = open_run(runs["chat"])
    chat = Chat(run, Request())
    chat.answer("hello")
    chat.clear()
    assert chat.messages == []
    out = said(capsys, monkeypatch, ["hello", "/clear", "hello"], "--run", runs["chat"], "--json").out
    assert json.loads(out.splitlines()[1])["assistant"] == chat.answer("hello").text


@pytest.mark.parametrize(("kind", "what"), [("chat", "a row of this run has 80"), ("decoder", "the model reads 80")])
def test_history_beyond_the_canvas_is_an_error_and_can_be_cleared(runs, capsys, monkeypatch, kind, what):
    turns = ["x" * 20, "y" * 70, "/clear", "hello", "/cleer"]
    out, err = said(capsys, monkeypatch, turns, "--run", runs[kind], "--json", code=1)
    assert [json.loads(line)["line"] for line in out.splitlines()] == [1, 4]
    assert what in err
    assert "<stdin>:2:" in err
    assert "2 messages came before it: /clear forgets them" in err
    assert "<stdin>:5: there is no command /cleer; the commands are /clear, /quit" in err


def test_terminal_shows_the_text_as_it_is_denoised(runs, capsys, monkeypatch):
    shown = []
    chat = Chat(open_run(runs["chat"]), watching(shown))
    answer = chat.answer("hello").text
    assert shown[0].count("_") > 20
    assert shown[-1] == answer
    assert len(shown) > 20
    monkeypatch.setattr(live_text.shutil, "get_terminal_size", lambda: os.terminal_size((200, 50)))
    monkeypatch.setattr(sys, "stdout", screen := type("Terminal", (io.StringIO,), {"isatty": lambda self: True})())
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
    assert main(["--run", str(runs["chat"]), "--chat"]) == 0
    assert "\x1b[0J" + shown[0] in screen.getvalue()
    assert screen.getvalue().endswith(f"{answer}\n")


def test_run_that_does_not_chat_is_refused(runs, capsys, monkeypatch):
    for kind in ("plain", "facts"):
        assert "was not trained on conversations" in said(capsys, monkeypatch, [], "--run", runs[kind], code=1).err
    with pytest.raises(UnfitError, match="draws each answer once"):
        Chat(open_run(runs["chat"], ['generation.exactly={"a": 1}']), Request())
    with pytest.raises(SystemExit):
        main(["--run", "x", "--chat", "--prompt", "a"])


@pytest.mark.parametrize("kind", ["facts", "answers"])
def test_questions_of_a_table_are_answered(runs, tmp_path, capsys, kind):
    rows = [{"place": row["place"], "question": row["question"]} for row in FACTS] * 2
    lines = tmp_path / "q.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"place": "a"}\n[1]\n')
    sheet = tmp_path / "q.csv"
    sheet.write_text("place,question\n" + "".join(f'{row["place"]},"{row["question"]}"\n' for row in rows))
    assert main(["--run", str(runs[kind]), "--input", str(lines), "--json"]) == 1
    out, err = capsys.readouterr()
    found = [json.loads(line) for line in out.splitlines()]
    assert found[0]["input"] == rows[0]
    assert [one["output"] is None for one in found] == [False] * 4 + [True] * 2
    assert "q.jsonl:5: there is no column 'question'" in err
    assert "q.jsonl:6: must be a JSON object" in err
    outputs = []
    for size in ("1", "3"):
        assert main(["--run", str(runs[kind]), "--input", str(sheet), "--json", "--batch-size", size]) == 0
        outputs.append([json.loads(line)["output"] for line in capsys.readouterr().out.splitlines()])
    assert outputs[0] == outputs[1] == [one["output"] for one in found[:4]]


def test_lines_are_turns_of_a_user(runs, tmp_path, capsys):
    (tmp_path / "turns.txt").write_text("hello\nand you?\n")
    assert main(["--run", str(runs["chat"]), "--input", str(tmp_path / "turns.txt")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize("kind", ["facts", "chat", "answers"])
def test_responses_are_compared_with_those_of_the_data(runs, tmp_path, capsys, kind):
    written = tmp_path / "predictions.jsonl"
    assert evaluate(["--run", str(runs[kind]), "--json", "--write-predictions", str(written)]) == 0
    result = json.loads(capsys.readouterr().out)
    names = [figure["name"] for figure in result["figures"]]
    assert {"exact_match", "bleu", "chrf"} <= set(names)
    assert "entropy" not in names
    rows = [json.loads(line) for line in written.read_text().splitlines()]
    wanted = ["fine", "good day"] if kind == "chat" else [row["answer"] for row in FACTS]
    assert [row["reference"] for row in rows] == wanted
    assert all(set(row["score"]) == {"exact_match", "bleu", "chrf"} for row in rows)
    assert evaluate(["--run", str(runs[kind]), "--json", "--num-samples", "0"]) == 0
    assert "exact_match" not in capsys.readouterr().out


def test_mixture_of_conversations_chats(runs, tmp_path):
    parts = [{**talks(tmp_path / name)[0], "name": name} for name in "bc"]
    mixture = {"name": "a", "source": "mixture", "datasets": {"b": 1, "c": 1}, "sequence_length": LENGTH}
    run = open_run(make_run(tmp_path, MDLM, [mixture, *parts], "diffusion"))
    assert Chat(run, Request()).answer("hello").network_calls > 20


def test_template_without_a_given_column_takes_no_prompt(tmp_path):
    data = table(tmp_path, FACTS, template="fact: {answer:response}".replace(" {", "{ "), sequence_length=16)
    run = open_run(make_run(tmp_path, MDLM, data, "diffusion"))
    assert len(draw(run, Request()).samples) == 3
    with pytest.raises(PromptError, match="gives no column to a prompt"):
        draw(run, Request(("x",)))


def test_last_responses() -> None:
    mask = torch.tensor([[0, 1, 1, 0, 1, 1], [1, 1, 0, 1, 0, 0], [1, 1, 1, 1, 1, 1]]).bool()
    expected = torch.tensor([[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 0, 0], [1, 1, 1, 1, 1, 1]]).bool()
    assert torch.equal(last_responses(mask), expected)


def test_canvas_is_that_of_the_rows(runs, tmp_path):
    with pytest.raises(UnfitError, match="have 80 tokens, on which it has learnt where responses end"):
        Chat(open_run(runs["chat"]), Request(length=90)).answer("hello")
    data = table(tmp_path, FACTS, template="{question}?\n{answer:response}", fill="hidden")
    run = open_run(make_run(tmp_path / "hidden", MDLM, data, "diffusion"))
    with pytest.raises(UnfitError, match="not how likely a length is after a prompt; give --length N"):
        draw(run, Request(("what",)))
    assert all(len(one.tokens) <= 7 for one in draw(run, Request(("what",), length=14)).samples)


def test_characters_that_are_not_known_are_those_of_columns(runs, tmp_path):
    assert draw(open_run(runs["facts"]), Request((json.dumps({"place": "a", "question": "what"}),))).notes == []
    notes = draw(open_run(runs["facts"]), Request((json.dumps({"place": "Q", "question": "what"}),))).notes
    assert notes == ["the prompt has characters that the run's tokenizer does not know ('Q')"]


def test_answer_of_a_decoder_is_shown_as_it_grows(runs):
    shown = []
    answer = Chat(open_run(runs["decoder"]), watching(shown)).answer("hello").text
    assert len(shown) > 1
    assert all(answer.startswith(text) for text in shown)
    assert shown[-1] == answer
