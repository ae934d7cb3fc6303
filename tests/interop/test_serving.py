"""`model-factory serve`: answers, streams, and the client of OpenAI."""

import json

import pytest

pytest.importorskip("starlette", reason="the extra 'serve' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'serve' is not installed")

from model_factory.cli.generate import main as generate
from model_factory.evaluation.run import open_run
from model_factory.evaluation.sampling.chat import Chat
from model_factory.evaluation.sampling.draw import draw
from model_factory.evaluation.sampling.sample import Request
from model_factory.interop.serving.answers import Deltas
from tests.evaluation.test_chat import FACTS, facts, talks
from tests.evaluation.untrained_runs import DECODER, LATENT, MDLM, PAIR, STACK, make_run, pair_data, text_data
from tests.interop.serving import join, serving, texts_of

SHORT = {**DECODER, "decoder": {**STACK, "max_length": 40}}
QUESTION = json.dumps({key: FACTS[0][key] for key in ("place", "question")})


def documents(folder):
    return text_data(folder, documents="line", rows="whole", sequence_length=100)


def holes(folder):
    return text_data(folder, documents="line", rows="whole", sequence_length=120, infill={"share": 0.9})


def lines(folder):
    return text_data(folder, documents="line", rows="whole", sequence_length=90)


RUNS = {
    "decoder": (SHORT, text_data, "language_modelling"),
    "mdlm": (MDLM, text_data, "diffusion"),
    "documents": (MDLM, documents, "diffusion"),
    "translator": (PAIR, pair_data, "translation"),
    "targets": (MDLM, lambda folder: pair_data(folder, sequence_length=40), "conditional_diffusion"),
    "chat": (MDLM, talks, "diffusion"),
    "talker": ({**DECODER, "decoder": {**STACK, "max_length": 80}}, talks, "language_modelling"),
    "facts": (MDLM, facts, "diffusion"),
    "holes": (MDLM, holes, "diffusion"),
    "filler": (DECODER, holes, "language_modelling"),
    "latent": (LATENT, lines, "latent_diffusion"),
}


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """Start the server of a run when it is first asked for."""
    started, folder = {}, tmp_path_factory.mktemp("runs")

    def find(kind):
        if kind not in started:
            model, data, task = RUNS[kind]
            run = make_run(folder / kind, model, data(folder / kind), task)
            manager = serving(run)
            started[kind] = manager.__enter__(), manager, run
        return started[kind][0], started[kind][2]

    yield find
    for _, manager, _ in started.values():
        manager.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("kind", "prompt"),
    [
        ("decoder", "the dog"),
        ("mdlm", "the [[5]] dog"),
        ("translator", "the quick"),
        ("targets", "the quick"),
        ("facts", QUESTION),
        ("holes", "the [[*]] dog"),
        ("filler", "the [[*]] dog"),
        ("chat", "hello"),
        ("latent", ""),
    ],
)
def test_answer_is_that_of_generate(servers, capsys, kind, prompt):
    server, run = servers(kind)
    words = ["--run", str(run), "--seed", "5", "--num-samples", "2", "--json"]
    assert generate([*words, *(["--prompt", prompt] if prompt else [])]) == 0
    expected = [sample["text"] for sample in json.loads(capsys.readouterr().out)["samples"]]
    answer = server.post(prompt=prompt, seed=5, n=2)
    assert texts_of(answer) == expected
    assert (answer["object"], answer["model"], answer["seed"]) == ("text_completion", "tiny", 5)
    assert expected[0] != expected[1]
    events = server.stream(prompt=prompt, seed=5, n=2)
    assert join(events, 2) == (expected, [choice["finish_reason"] for choice in answer["choices"]])
    assert {event["object"] for event in events} == {"text_completion"}
    states = [choice["diffusion"] for event in events for choice in event["choices"] if "diffusion" in choice]
    if kind in ("decoder", "translator", "filler", "latent"):
        assert states == []
        assert len(events) > 4
    else:
        assert len(states) > 6
        assert {state["step"] for state in states} == set(range(1, states[-1]["step"] + 1))
        assert states[0]["masked"] == states[0]["text"].count("_") > 0
        assert states[-1] == {"step": states[-1]["step"], "text": expected[1], "masked": 0}
        assert all(choice["text"] == "" for event in events for choice in event["choices"] if "diffusion" in choice)


def test_completion_of_a_latent_model_is_without_its_prompt(servers):
    """The text is decoded from a drawn latent after the prompt; steps are those of the diffusion."""
    server, run = servers("latent")
    opened = open_run(run, ["generation.num_samples=2", "generation.max_new_tokens=9", "generation.steps=4"])
    wanted = [one.text for one in draw(opened, Request(("the dog ",), 3)).samples]
    assert all(text.startswith("the dog") for text in wanted)
    given = {"prompt": "the dog ", "max_tokens": 9, "seed": 3, "steps": 4, "n": 2}
    answer = server.post(**given)
    assert [("the dog " + text).replace("  ", " ") for text in texts_of(answer)] == [
        text.replace("  ", " ") for text in wanted
    ]
    assert join(server.stream(**given), 2)[0] == texts_of(answer)
    assert texts_of(server.post(**given, echo=True)) == ["the dog " + text for text in texts_of(answer)]
    stop = texts_of(answer)[0][2:4]
    assert texts_of(server.post(**given, stop=stop))[0] == texts_of(answer)[0].partition(stop)[0]
    assert server.post(status=400, prompt="the dog", max_tokens=93)["error"]["param"] == "max_tokens"
    assert "the decoder takes at most 99 in all" in server.post(status=400, prompt="the " * 30)["error"]["message"]
    assert "13" in server.post(status=400, prompt="the", steps=13)["error"]["message"]
    assert server.post(status=400, prompt="the", suffix="dog")["error"]["param"] == "suffix"
    assert "leave the hole out" in server.post(status=400, prompt="the [[3]]")["error"]["message"]
    assert "takes no condition" in server.post(status=400, prompt="the", condition="1")["error"]["message"]
    (model,) = json.loads(server.request("GET", "/v1/models")[2])["data"]
    assert (model["takes_steps"], model["holes"], model["messages"]) == (True, False, False)


def test_completion_of_a_denoiser_is_without_prompt_and_suffix(servers):
    server, run = servers("mdlm")
    opened = open_run(run, ["generation.num_samples=1", "generation.steps=6"])
    (whole,) = draw(opened, Request(("the [[5]] dog",), 3, 13)).samples
    given = {"prompt": "the ", "suffix": " dog", "max_tokens": 5, "seed": 3, "steps": 6}
    assert texts_of(server.post(**given)) == [whole.text[4:9]]
    assert texts_of(server.post(**given, echo=True)) == [whole.text]
    assert join(server.stream(**given, echo=True)) == ([whole.text], ["stop"])
    (plain,) = draw(opened, Request(("the ",), 3, 11)).samples
    assert texts_of(server.post(prompt="the ", max_tokens=7, seed=3, steps=6)) == [plain.text[4:]]
    (free,) = draw(opened, Request((), 3, 9)).samples
    assert texts_of(server.post(prompt="", max_tokens=9, seed=3, steps=6)) == [free.text]
    assert len(texts_of(server.post(prompt="the [[2]] dog", max_tokens=5, seed=3))[0]) == 13


@pytest.mark.parametrize("kind", ["holes", "filler"])
def test_suffix_makes_a_hole_of_unknown_length(servers, kind):
    server, run = servers(kind)
    (whole,) = draw(open_run(run, ["generation.num_samples=1"]), Request(("the [[*]] dog",), 3)).samples
    inner = whole.text.removeprefix("the ").removesuffix(" dog")
    given = {"prompt": "the ", "suffix": " dog", "seed": 3}
    assert texts_of(server.post(**given)) == [inner]
    assert join(server.stream(**given))[0] == [inner]
    assert texts_of(server.post(**given, echo=True)) == [whole.text]
    assert join(server.stream(**given, echo=True))[0] == [whole.text]
    assert inner.startswith(texts_of(server.post(**given, max_tokens=3))[0])
    short = server.post(prompt="the [[*]] dog", seed=3, max_tokens=3)
    assert texts_of(short)[0].endswith(" dog")
    assert short["choices"][0]["finish_reason"] == "length"
    assert short["usage"]["completion_tokens"] <= 11


def test_decoder_ends_at_its_limits_and_stops(servers):
    server, _ = servers("decoder")
    whole = server.post(prompt="the dog", seed=1, max_tokens=20)
    (text,), (choice,) = texts_of(whole), whole["choices"]
    assert choice["finish_reason"] == "length"
    tokens = len(text)  # of characters; special tokens have no text
    assert whole["usage"] == {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens}
    stop = text[8:10]
    for stops in (stop, ["never", stop]):
        found = server.post(prompt="the dog", seed=1, max_tokens=20, stop=stops)
        assert texts_of(found) == [text[: text.index(stop)]]
        assert found["choices"][0]["finish_reason"] == "stop"
        events = server.stream(prompt="the dog", seed=1, max_tokens=20, stop=stops)
        assert join(events) == ([text[: text.index(stop)]], ["stop"])
    events = server.stream(prompt="the dog", seed=1, max_tokens=20, stop=stop, echo=True)
    assert join(events)[0] == ["the dog" + text[: text.index(stop)]]
    several = texts_of(server.post(prompt="the dog", seed=1, max_tokens=20, n=3))
    stop = several[1][5]
    cut = [one.partition(stop)[0] for one in several]
    assert join(server.stream(prompt="the dog", seed=1, max_tokens=20, n=3, stop=stop), 3)[0] == cut
    assert texts_of(server.post(prompt="the dog", seed=1, temperature=0)) == texts_of(
        server.post(prompt="the dog", seed=2, temperature=0)
    )
    assert texts_of(server.post(prompt="the dog")) != texts_of(server.post(prompt="the dog"))


def test_deltas_join_to_the_text():
    for texts, stops in (
        (["a", "ab", "abc", "abcd"], []),
        (["I", "I '", "I'm", "I'm h"], []),
        (["x", "x\ufffd", "x\ufffd\ufffd", "x\u20ac", "x\u20acy"], []),
        (["a", "aE", "aEN", "aEN!", "aEN!b"], ["END"]),
    ):
        deltas = Deltas(stops)
        found = [deltas.push(text) for text in texts]
        assert "".join([*found, deltas.finish(texts[-1])]) == texts[-1]
    held = Deltas(["END"])
    assert [held.push(text) for text in ("a", "aE", "aEN", "aEN", "aEN")] == ["", "", "a", "", ""]


@pytest.mark.parametrize("kind", ["chat", "talker"])
def test_chat_answers_as_the_conversation(servers, kind):
    server, run = servers(kind)
    chat = Chat(open_run(run), Request(seed=4))
    first, second = chat.answer("hello").text, chat.answer("and you?").text
    answer = server.post("chat/completions", messages=chat.messages[:1], seed=4)
    assert texts_of(answer, "chat") == [first]
    assert answer["object"] == "chat.completion"
    assert texts_of(server.post("chat/completions", messages=chat.messages[:3], seed=4), "chat") == [second]
    events = server.stream("chat/completions", messages=chat.messages[:3], seed=4, n=2)
    texts, _ = join(events, 2)
    assert texts[0] == second
    assert texts[1] != second
    assert any("diffusion" in choice for event in events for choice in event["choices"]) == (kind == "chat")
    short = server.post("chat/completions", messages=chat.messages[:1], seed=4, max_completion_tokens=2)
    assert first.startswith(texts_of(short, "chat")[0])
    assert short["usage"]["completion_tokens"] <= 2
    wrong = server.post("chat/completions", 400, messages=chat.messages[:2])
    assert wrong["error"]["param"] == "messages"


def test_whole_documents_have_lengths_of_the_data(servers):
    server, run = servers("documents")
    expected = [one.text for one in draw(open_run(run), Request(seed=2)).samples]
    assert texts_of(server.post(prompt="", seed=2, n=3)) == expected
    assert join(server.stream(prompt="", seed=2, n=3), 3)[0] == expected


def test_openai_client(servers):
    openai = pytest.importorskip("openai", reason="openai, the client, is not installed")
    server, _ = servers("mdlm")
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["tiny"]
        assert client.models.retrieve("tiny").owned_by == "model-factory"
        given = {"model": "tiny", "prompt": "the ", "suffix": " dog", "max_tokens": 5, "seed": 3}
        answer = client.completions.create(**given, extra_body={"steps": 6})
        assert len(answer.choices[0].text) == 5
        chunks = list(client.completions.create(**given, extra_body={"steps": 6}, stream=True))
        assert "".join(chunk.choices[0].text for chunk in chunks) == answer.choices[0].text
        assert chunks[0].choices[0].diffusion["text"].startswith("the ")
        with pytest.raises(openai.BadRequestError, match="no field 'frequency_penalty'"):
            client.completions.create(**given, frequency_penalty=1)
        with pytest.raises(openai.NotFoundError, match="there is no model 'gpt'"):
            client.completions.create(**given | {"model": "gpt"})
        chat, _ = servers("chat")
        client.base_url = f"http://127.0.0.1:{chat.port}/v1"
        messages = [{"role": "user", "content": "hello"}]
        reply = client.chat.completions.create(model="tiny", messages=messages, seed=1)
        stream = client.chat.completions.create(model="tiny", messages=messages, seed=1, stream=True)
        assert "".join(chunk.choices[0].delta.content for chunk in stream) == reply.choices[0].message.content
