"""The page of `model-factory serve`: its policy, and prompts that are typed and drawn in a browser."""

import base64
import hashlib
import re

import pytest

pytest.importorskip("starlette", reason="the extra 'serve' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'serve' is not installed")

from tests.interop.serving import make_runs, serving, texts_of
from tests.pages.browser import BROWSERS, find_browser, open_tab

KEY = "0123456789abcdef-key"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return make_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def server(runs):
    with serving(runs["mdlm"]) as running:
        yield running


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    browser = find_browser()
    if browser is None:
        pytest.skip(f"no browser is installed; one of {', '.join(BROWSERS)} would do")
    with open_tab(browser, tmp_path_factory.mktemp("browser")) as found:
        yield found


def test_page_is_self_contained_and_names_its_script(server):
    status, headers, page = server.request("GET", "/", None, {})
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    for tag in ("script", "style"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert (
            policy[f"{tag}-src"] == f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
        )
    others = {name: value for name, value in policy.items() if name not in ("script-src", "style-src")}
    assert others.pop("connect-src") == "'self'"
    assert set(others) == {"default-src", "base-uri", "form-action", "frame-ancestors"}
    assert set(others.values()) == {"'none'"}
    assert not re.search(r"\b(src|href|style|on\w+)=|url\(|@import|https?://|innerHTML", page)
    assert "<h1>tiny</h1>" in page


def test_name_of_the_model_is_escaped(runs):
    with serving(runs["mdlm"]) as server:
        from model_factory.interop.serving.page import page_response

        assert server.request("GET", "/")[2] == page_response("tiny").body.decode()
        assert "<h1>&lt;script&gt;&amp;</h1>" in page_response("<script>&").body.decode()


def type_and_draw(tab, **values):
    """Type values, draw, and return the shown texts, the last state and whether it is an error."""
    tab.run(f"""(() => {{
        const values = {values};
        for (const input of document.querySelectorAll("textarea, input")) input.value = values[input.id] ?? "";
        window.shown = [];
        new MutationObserver(() => shown.push(find("text").textContent)).observe(find("text"), {{childList: true}});
        find("draw").click();
    }})()""")
    return wait_for_end(tab)


def wait_for_end(tab):
    while tab.run("running !== null"):
        pass
    return tab.run("shown"), tab.run("find('state').textContent"), tab.run("find('state').className") == "error"


def test_typed_prompt_is_seen_to_fill_in_a_browser(server, tab):
    tab.open(f"http://127.0.0.1:{server.port}/")
    shown, state, is_error = type_and_draw(tab, prompt="the [[6]] dog", max_tokens=6, steps=6, seed=3)
    assert (is_error, state.endswith(" steps, seed 3")) == (False, True)
    (expected,) = texts_of(server.post(prompt="the [[6]] dog", max_tokens=6, steps=6, seed=3))
    assert shown[-1] == expected
    assert any(text.startswith("the ") and text.endswith(" dog") and "_" in text for text in shown)
    assert tab.run("find('about').textContent").startswith("Type a text with holes: [[5]]")
    _, state, is_error = type_and_draw(tab, prompt="the [[x]] dog")
    assert (is_error, "a hole of 12 tokens is [[12]]" in state) == (True, True)
    assert [error for error in tab.errors if "400" not in error and "favicon" not in error] == []


def test_stop_in_a_browser_ends_the_run(server, tab):
    tab.open(f"http://127.0.0.1:{server.port}/")
    tab.run("find('prompt').value = 'the '; find('steps').value = 1024; find('max_tokens').value = 4000")
    tab.run("window.shown = []; find('draw').click()")
    while "masked" not in tab.run("find('state').textContent"):
        pass
    tab.run("find('stop').click()")
    assert wait_for_end(tab)[1:] == ("stopped", False)
    assert texts_of(server.post(prompt="the ", steps=2))


def test_decoder_with_a_key_in_a_browser(runs, tab):
    with serving(runs["decoder"], key=KEY) as server:
        tab.open(f"http://127.0.0.1:{server.port}/")
        _, state, is_error = type_and_draw(tab, prompt="the dog", seed=2)
        assert (is_error, state) == (True, "a request needs the server's key, in a header: Authorization: Bearer KEY")
        assert tab.run("find('with_key').hidden") is False
        shown, state, _ = type_and_draw(tab, prompt="the dog", seed=2, max_tokens=12, key=KEY)
        assert state == "seed 2"
        assert all(shown[-1].startswith(text) for text in shown)
        assert tab.run("find('with_steps').hidden") is True
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        content = {"model": "tiny", "prompt": "the dog", "seed": 2, "max_tokens": 12}
        answer = server.request("POST", "/v1/completions", content, headers)[2]
        assert shown[-1] in answer
