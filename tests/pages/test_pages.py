"""HTML pages: content, no external resources, rendering in a browser."""

import os
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from evaluate import main as evaluate
from model.types import PerformerParams
from model_factory.experiment.config import read_experiment
from model_factory.experiment.crossover import core_flops
from model_factory.experiment.summary import Part, summarise_model
from model_factory.pages.document import PageError, Section, render_page, write_page
from model_factory.pages.summary_page import compute_noise_curves
from model_factory.yaml_config.dump import dump
from parse_args import main as parse
from tests.pages.browser import BROWSERS, find_browser
from tests.training.runs import experiment, train

STACK = {"d_model": 32, "num_layers": 2, "num_heads": 4, "device": "cpu"}
DIFFUSION = {
    "model_type": "diffusion",
    "name": "masks <&>",
    "process": {"type": "absorbing"},
    "schedule": {"type": "cosine"},
    "objective": {"type": "mdlm"},
    "backbone": {"type": "performer", "attention_type": "linear", **STACK},
    "vocab_size": 30,
}


def file(tmp_path, model):
    path = tmp_path / "model.yml"
    path.write_text(dump({"model": model}))
    return path


class _Reader(HTMLParser):
    """HTML parser that records open tags, headings and references to external resources."""

    VOID = {"meta", "link", "br", "img", "input", "hr"}

    def __init__(self):
        super().__init__()
        self.open, self.headings, self.references = [], [], []

    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "iframe", "img", "link", "object")
        self.references += [
            v for k, v in attrs if k in ("src", "href", "xlink:href", "data") and not (v or "").startswith("#")
        ]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.references += [v for k, v in attrs if k in ("src", "href", "xlink:href") and not (v or "").startswith("#")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)


def read(page):
    """Return a page's headings; assert that it is well-formed and self-contained."""
    reader = _Reader()
    reader.feed(page)
    assert (reader.open, reader.references) == ([], [])
    assert "url(http" not in page
    assert "@import" not in page
    return reader.headings


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("summary")
    target = folder / "page.html"
    assert parse(["--config", str(file(folder, DIFFUSION)), "--summary", "--html", str(target)]) == 0
    return target


def test_summary_page_headings_and_plots(summary):
    page = summary.read_text()
    headings = read(page)
    assert headings[0] == "masks <&>: parts and cost of the model"
    assert headings[1:] == [
        "Structure",
        "Parameters by part",
        "Memory by part",
        "FLOPs of a forward pass by part",
        "Noise schedule",
        "Attention cost over length of backbone",
        "Configuration of the model",
    ]
    assert "<b>" not in page
    assert "masks &lt;&amp;&gt;" in page
    assert page.count("<svg") == 5


def test_summary_page_names_parts_in_words(summary):
    page = summary.read_text()
    assert "<td>encoder: self-attention</td>" in page
    assert not re.search(r"<td>[a-z.]*(_[a-z]+)+</td>", page)
    titles = [Part(name, 0, 0).title for name in ("told", "decoder.lm_head", "denoiser.network.norm", "")]
    assert titles == ["time and condition embedding", "decoder: output head", "denoiser: network: norm", "model"]


def test_summary_page_is_reproducible(summary, tmp_path):
    target = tmp_path / "again.html"
    assert parse(["--config", str(summary.with_name("model.yml")), "--summary", "--html", str(target)]) == 0
    assert target.read_text() == summary.read_text()


@pytest.mark.parametrize("name", ["bert_gpt2", "performer", "dmlp"])
def test_summary_page_of_latent_models(name, tmp_path):
    sizes = [word for part in ("encoder", "decoder") for word in ("--set", f"model.{part}.vocab_size=50")]
    words = ["--config", f"configs/latent/{name}.yml", "--model-only", "--summary", *sizes]
    assert parse([*words, "--html", str(tmp_path / "page.html")]) == 0
    assert "Noise schedule" in read((tmp_path / "page.html").read_text())


@pytest.mark.parametrize("name", ["bert_gpt2", "performer", "dmlp"])
def test_summary_counts_nested_parts_and_tied_weights_once(name):
    sizes = [f"model.{part}.vocab_size=50" for part in ("encoder", "decoder")]
    summary = summarise_model(read_experiment(f"configs/latent/{name}.yml", sizes, ("model",)).config)
    assert min(part.forward_flops for part in summary.parts) >= 0
    assert sum(part.forward_flops for part in summary.parts) == summary.total.forward_flops
    assert sum(part.parameters for part in summary.parts) == summary.total.parameters


@pytest.mark.parametrize("attention", ["softmax", "linear"])
@pytest.mark.parametrize("length", [64, 96])
def test_attention_flops_formula_matches_the_counter(attention, length, tmp_path):
    """The FLOPs of a whole summary, minus the projections around the core."""
    params = {**STACK, "attention_type": attention, "vocab_size": 11, "max_length": length}
    config = read_experiment(
        file(tmp_path, {"model_type": "encoder", "encoder": params}), ["model.encoder.batch_size=1"]
    )
    (part,) = (part for part in summarise_model(config.config).parts if "attention" in part.name)
    projections = length * 2 * 4 * 32 * 32 * 2  # four of them, two layers
    found = core_flops(PerformerParams(**params), length, linear=attention == "linear")
    assert found == pytest.approx(part.forward_flops - projections, rel=0.02)


def test_noise_curves_of_each_kind(tmp_path):
    config = read_experiment(file(tmp_path, DIFFUSION)).config
    t, alpha = compute_noise_curves(config)["untouched, alpha(t)"]
    assert (t[0], t[-1], alpha[0]) == (0, 1, 1)
    assert alpha[-1] == pytest.approx(1e-3)
    assert compute_noise_curves(read_experiment("configs/encoder_model.yml", only=("model",)).config) == {}
    latent = compute_noise_curves(read_experiment("configs/latent/dmlp.yml", only=("model",)).config)
    _, kept = latent["signal, alphabar(t)"]
    assert kept[100] == pytest.approx((1 - 0.008) ** 101, rel=1e-3)


def test_html_option_needs_summary(tmp_path):
    with pytest.raises(SystemExit) as stopped:
        parse(["--config", str(file(tmp_path, DIFFUSION)), "--html", "x.html"])
    assert stopped.value.code == 2


@pytest.mark.parametrize("target", ["none/x.html", "."])
def test_html_target_is_checked_before_the_work(target, tmp_path, capsys):
    for verb, words in (
        (parse, ["--config", str(file(tmp_path, DIFFUSION)), "--summary"]),
        (evaluate, ["--run", str(tmp_path / "no_run")]),
    ):
        with pytest.raises(SystemExit) as stopped:
            verb([*words, "--html", str(tmp_path / target)])
        assert stopped.value.code == 2
        assert ("there is no folder" if "none" in target else "is a folder: --html") in capsys.readouterr().err


def test_unwritable_page_raises_page_error(tmp_path):
    with pytest.raises(PageError, match="the page cannot be written: No such file or directory"):
        write_page(tmp_path / "none" / "x.html", "")


def test_page_escapes_text():
    page = render_page(
        "<script>alert(1)</script>", [("a", "<img src=x>")], [Section("<b>", "&", [["<i>"]], "", ["</pre><script>"])]
    )
    assert read(page)[0] == "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    assert train("--config", experiment(folder), "--output", folder / "run") == 0
    target = folder / "page.html"
    words = ["--run", str(folder / "run"), "--split", "validation", "--num-samples", "2", "--html", str(target)]
    assert evaluate(words) == 0
    return target


def test_evaluation_page_has_figures_curves_and_samples(evaluation):
    page = evaluation.read_text()
    headings = read(page)
    for heading in ("Figures", "Loss over steps", "Learning rate", "Samples during training", "Configuration"):
        assert heading in headings, headings
    assert re.search(r"<td>bits_per_\w+</td>", page)
    assert "<th></th>" not in page
    assert "<th>note</th>" in page
    assert "===== step 6 =====" in page


@pytest.mark.parametrize("kind", ["summary", "evaluation"])
def test_page_renders_in_a_browser(kind, request, tmp_path):
    browser = find_browser()
    if browser is None:
        pytest.skip(f"no browser is installed; one of {', '.join(BROWSERS)} would do")
    page = request.getfixturevalue(kind)
    picture = tmp_path / "page.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1000,3000", f"--user-data-dir={tmp_path}"]
    shown = subprocess.run([browser, *options, "--dump-dom", page.as_uri()], capture_output=True, text=True, check=True)
    assert shown.stdout.count("<section>") == page.read_text().count("<section>")
    assert "<svg" in shown.stdout
    subprocess.run([browser, *options, f"--screenshot={picture}", page.as_uri()], capture_output=True, check=True)
    from matplotlib.image import imread

    pixels = imread(picture)
    assert pixels.shape[:2] == (3000, 1000)
    assert (pixels[..., :3].min(2) < 0.5).mean() > 0.005  # the picture is not blank


def test_figures_are_printed_if_the_page_cannot_be_written(evaluation, tmp_path, monkeypatch, capsys):
    def full(self, *args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    target = tmp_path / "page.html"
    run = evaluation.parent / "run"
    assert evaluate(["--run", str(run), "--split", "validation", "--num-samples", "0", "--html", str(target)]) == 4
    out, err = capsys.readouterr()
    assert "bits_per_token" in out
    assert f"{target}: the page cannot be written: No space left on device" in err


@pytest.mark.parametrize("kind", ["device", "pipe", "null", "long", "folder"])
def test_html_target_must_be_a_regular_file(kind, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    link = tmp_path / "device"
    link.symlink_to(os.devnull)
    name = {"null": "a\0b.html", "long": "x" * 300, "folder": str(tmp_path)}.get(kind, str(tmp_path / kind))
    with pytest.raises(SystemExit) as ended:
        parse(["--config", "configs/encoder_model.yml", "--summary", "--html", name])
    assert ended.value.code == 2
    assert "--html" in capsys.readouterr().err
    assert not Path(os.devnull).is_file()


def test_page_is_written_through_a_symlink(tmp_path):
    (tmp_path / "link.html").symlink_to(tmp_path / "page.html")
    write_page(tmp_path / "link.html", "<p>")
    assert (tmp_path / "link.html").is_symlink()
    assert (tmp_path / "page.html").read_text() == "<p>"
