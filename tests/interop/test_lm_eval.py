"""Runs as models of lm-evaluation-harness: tasks of local files, requests, settings, the command line and the cache."""

import json
import subprocess
import sys
from functools import partial
from math import fsum, log, sqrt
from pathlib import Path

import pytest
import torch

pytest.importorskip("lm_eval", reason="the extra 'eval' is not installed")

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from model_factory.cli.exchange.lm_eval import main
from model_factory.evaluation.run import open_run
from model_factory.interop.export.tokenizer import convert_tokenizer
from model_factory.interop.harness_settings import HarnessSettings
from model_factory.interop.hf.config import make_hub_config
from model_factory.interop.hf.decoder import ModelFactoryForCausalLM
from model_factory.interop.lm_eval import ModelFactoryLM
from model_factory.training.errors import UnfitError
from tests.evaluation.untrained_runs import PAIR, make_run, pair_data
from tests.interop.harness_runs import MODELS, decoder_run, harness_run, local_tasks

ROOT = Path(__file__).resolve().parents[2]
LONG = "the quick brown fox jumps over the lazy dog, and again "
CHOICES = [("the dog", " fox"), ("", "and"), ("the ", "dog"), ("the", " lazy dog jumps"), (LONG, " mind"), ("dog", "s")]
TASKS = ["local_rolling", "local_choice", "local_generate"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """Write a run of each kind, and one of a decoder of whole documents."""
    folder = tmp_path_factory.mktemp("harness")
    whole = {"rows": "whole", "sequence_length": 90}
    found = {"decoder": decoder_run(folder / "decoder"), "whole": decoder_run(folder / "whole", **whole)}
    return found | {name: harness_run(folder / name, model) for name, model in MODELS.items()}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    return local_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("lm_eval.tasks.TaskManager", partial(TaskManager, include_defaults=False))  # 13,000 files
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)  # calls pip and nvidia-smi


def instances(kind: str, arguments: list[tuple]) -> list[Instance]:
    return [Instance(kind, {}, one, number, ("task", number, 1)) for number, one in enumerate(arguments)]


def answer(lm, choices=CHOICES, texts=(LONG * 2, "fox")) -> list[float]:
    """Return the log-likelihoods of answers and of texts."""
    answers = lm.loglikelihood(instances("loglikelihood", list(choices)), disable_tqdm=True)
    rolling = lm.loglikelihood_rolling(
        instances("loglikelihood_rolling", [(text,) for text in texts]), disable_tqdm=True
    )
    return [nats for nats, _ in answers] + list(rolling)


@pytest.mark.parametrize("kind", ["decoder", "whole"])
def test_decoder_equals_the_class_of_the_harness(runs, kind: str) -> None:
    """The harness's own class for transformers on the exported model and tokenizer gives the same log-likelihoods."""
    run = open_run(runs[kind])
    model = ModelFactoryForCausalLM(make_hub_config(run.config.model, run.model, run.tokenizer), run.model).eval()
    tokenizer, is_whole = convert_tokenizer(run.tokenizer), kind == "whole"
    prefix = run.tokenizer.bos_token_id if is_whole else run.tokenizer.eos_token_id
    shared = {"max_length": 24, "batch_size": 4}
    theirs = HFLM(
        pretrained=model, tokenizer=tokenizer, backend="causal", prefix_token_id=prefix, device="cpu", **shared
    )
    ours = ModelFactoryLM(pretrained=str(runs[kind]), add_bos_token=False if is_whole else None, **shared)
    requests = instances("loglikelihood", CHOICES)
    expected = theirs.loglikelihood(requests, disable_tqdm=True)
    found = ours.loglikelihood(requests)
    assert [nats for nats, _ in found] == pytest.approx([nats for nats, _ in expected], abs=2e-5)
    assert [is_greedy for _, is_greedy in found] == [is_greedy for _, is_greedy in expected]
    texts = instances("loglikelihood_rolling", [(LONG * 2,), ("fox",), (LONG[:24],), (LONG[:25],)])
    rolling = theirs.loglikelihood_rolling(texts, disable_tqdm=True)
    assert ours.loglikelihood_rolling(texts) == pytest.approx(rolling, abs=2e-5)


def test_decoder_equals_a_plain_computation(runs) -> None:
    run = open_run(runs["decoder"])
    lm = ModelFactoryLM(pretrained=str(runs["decoder"]), max_length=64)
    for (context, text), (nats, _) in zip(CHOICES, lm.loglikelihood(instances("loglikelihood", CHOICES)), strict=True):
        before = run.tokenizer.encode(context.rstrip()) or [run.tokenizer.eos_token_id]
        ids = [*before, *run.tokenizer.encode(" " * context.endswith(" ") + text)][-65:]
        with torch.no_grad():
            log_probs = torch.log_softmax(run.model(torch.tensor([ids[:-1]])).double(), -1)[0]
        start = len(ids) - len(run.tokenizer.encode(" " * context.endswith(" ") + text))
        truth = fsum(float(log_probs[place - 1, ids[place]]) for place in range(start, len(ids)))
        assert nats == pytest.approx(truth, abs=2e-5)


@pytest.mark.parametrize("kind", ["decoder", *MODELS])
def test_results_depend_on_no_batch_order_or_limit(runs, kind: str) -> None:
    settings = {} if kind == "decoder" else {"draws": 4}
    texts = [LONG, "fox"]
    one, eight = (ModelFactoryLM(pretrained=str(runs[kind]), batch_size=size, **settings) for size in (1, "8"))
    first = answer(one, texts=texts)
    backwards = answer(eight, CHOICES[::-1], texts[::-1])
    assert first == pytest.approx([*backwards[: len(CHOICES)][::-1], *backwards[len(CHOICES) :][::-1]], abs=1e-5)
    assert answer(eight, CHOICES[:2], texts[:1]) == pytest.approx([*first[:2], first[len(CHOICES)]], abs=1e-5)
    assert {one["standard_error"] for one in eight.estimates} == {0.0} or kind != "decoder"


@pytest.mark.parametrize(
    ("kind", "settings"), [("decoder", {}), ("mdlm", {"draws": 32}), ("mdlm", {"likelihood": "chain"})]
)
def test_local_tasks_run_offline(runs, tasks: Path, tmp_path: Path, kind: str, settings: dict) -> None:
    log_file = tmp_path / "estimates.jsonl"
    found = lm_eval.simple_evaluate(
        model="model_factory" if kind == "decoder" else "model_factory_diffusion",
        model_args={"pretrained": str(runs[kind]), "log": str(log_file), **settings},
        tasks=TASKS,
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=10,
    )
    assert set(found["results"]) == set(TASKS)
    info = found["config"]["model_factory"]
    kinds = {"decoder": "exact", "mdlm": "bound of objective mdlm, by counts: at most the log-likelihood"}
    expected = "chain rule along one order (left)" if "likelihood" in settings else kinds[kind]
    assert (info["likelihood"], info.get("draws")) == (expected, settings.get("draws"))
    assert "answers cut into windows: 3" in info["notes"]
    lines = [json.loads(line) for line in log_file.read_text().splitlines()]
    assert [line["task"] for line in lines].count("local_choice") == 6
    rolling = [line for line in lines if line["task"] == "local_rolling"]
    total = info["tasks"]["local_rolling"]
    assert total["log_likelihood"] == pytest.approx(fsum(line["log_likelihood"] for line in rolling))
    assert total["standard_error"] == pytest.approx(sqrt(fsum(line["standard_error"] ** 2 for line in rolling)))
    assert (total["standard_error"] > 0) == ("draws" in settings)
    bits = found["results"]["local_rolling"]["bits_per_byte,none"]
    size = sum(len(doc["doc"]["text"].encode()) for doc in found["samples"]["local_rolling"])
    assert bits == pytest.approx(-total["log_likelihood"] / size / log(2))


def test_command_line_calls_that_of_the_harness(runs, tasks: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """The cache of answers has a file for each run and setting; arguments are checked before any task is read."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["model-factory"])
    words = ["--run", str(runs["mdlm"]), "--include_path", str(tasks), "--tasks", "local_choice", "--log_samples"]
    words += ["--output_path", str(tmp_path / "out"), "--use_cache", str(tmp_path / "answers")]
    assert main([*words, "--draws", "2", "--limit", "2"]) == 0
    assert "local_choice" in capsys.readouterr().out
    identity = HarnessSettings.parse({"pretrained": str(runs["mdlm"]), "draws": 2}).identity()
    assert [path.name for path in tmp_path.glob("answers*.db")] == [f"answers_{identity[:16]}_rank0.db"]
    [results] = [json.loads(path.read_text()) for path in tmp_path.glob("out/*/results*.json")][:1]
    assert results["config"]["model_factory"]["draws"] == 2
    assert len(next(tmp_path.glob("out/estimates_*.jsonl")).read_text().splitlines()) == 4
    assert main([*words, "--draws", "2", "--model_args", "drawz=1"]) == 1
    assert "no argument drawz; did you mean draws?" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main([*words, "--taskz", "x"])
    assert ended.value.code == 2


def test_cache_of_another_run_is_refused(runs, tmp_path: Path) -> None:
    def cached(kind: str, **settings):
        lm = ModelFactoryLM(pretrained=str(runs[kind]), **settings)
        return lm_eval.api.model.CachingLM(lm, str(tmp_path / "answers.db"))

    request = instances("loglikelihood", [("the", " dog")])
    first = cached("mdlm", draws=2).loglikelihood(request)
    again = cached("mdlm", draws=2, batch_size=1)
    assert again.loglikelihood(request) == first
    assert again.lm.estimates == []
    for kind, settings in (("sedd", {"draws": 2}), ("mdlm", {"draws": 3}), ("mdlm", {"draws": 2, "seed": 1})):
        with pytest.raises(UnfitError, match="--use_cache names answers of another run"):
            cached(kind, **settings)


def test_checkout_does_not_hide_the_package_evaluate(tmp_path: Path) -> None:
    """The checkout has an `evaluate.py`; the package is a stand-in, as only its place counts."""
    (tmp_path / "evaluate").mkdir()
    (tmp_path / "evaluate" / "__init__.py").write_text("")
    code = (
        "import sys, importlib.util, evaluate; print(evaluate.__file__); sys.path.append(sys.argv[1])\n"
        "from model_factory.cli.exchange.lm_eval import put_checkout_last; put_checkout_last()\n"
        "import data_manager.errors; print(importlib.util.find_spec('evaluate').origin)"
    )
    words = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    ours, theirs = done.stdout.split()
    assert (Path(ours).parent, Path(theirs).name) == (ROOT, "__init__.py")


def test_continuations_are_greedy_and_stop(runs) -> None:
    run = open_run(runs["decoder"])
    [ids] = run.model.generate(torch.tensor([run.tokenizer.encode("the dog")]), 8, temperature=0.0).tolist()
    text = run.tokenizer.decode(ids[7:])
    lm = ModelFactoryLM(pretrained=str(runs["decoder"]))
    stop = text[3:5]
    requests = [
        ("the dog", {"max_gen_toks": 8}),
        ("the dog", {"max_gen_toks": 8, "until": [stop]}),
        ("fox", {"until": []}),
    ]
    whole, cut, _ = lm.generate_until(instances("generate_until", requests))
    assert whole == text[: len(whole)]
    assert cut == text[: text.index(stop)]


@pytest.mark.parametrize("kind", ["decoder", "mdlm", "bd3lm", "udlm"])
def test_continuations_depend_on_no_batch_or_order(runs, kind: str) -> None:
    sampled = {"max_gen_toks": 6, "do_sample": True, "temperature": 1.0}
    requests = [("the", sampled), ("the dog", sampled), ("fox", {"max_gen_toks": 4}), ("the", sampled), (LONG, sampled)]
    steps = () if kind == "decoder" else "generation.steps=4"
    one, many = (ModelFactoryLM(pretrained=str(runs[kind]), batch_size=size, overrides=steps) for size in (1, 8))
    first = one.generate_until(instances("generate_until", requests))
    assert many.generate_until(instances("generate_until", requests[::-1]))[::-1] in (
        first,
        [first[3], *first[1:3], first[0], first[4]],  # two samples of one context
    )
    assert first[0] != first[3]
    assert many.notes() == ["contexts cut on the left: 1"]
    with pytest.raises(UnfitError, match="generation argument 'beams' is not known"):
        many.generate_until(instances("generate_until", [("the", {"beams": 2})]))


def test_settings_that_do_not_fit_are_refused(runs, tmp_path: Path) -> None:
    decoder, mdlm = str(runs["decoder"]), str(runs["mdlm"])
    pair = make_run(tmp_path / "pair", PAIR, pair_data(tmp_path / "pairs"), "translation")
    for message, settings in {
        "no argument dtype": {"pretrained": mdlm, "dtype": "float32"},
        "no argument trust_remote_code": {"pretrained": mdlm, "trust_remote_code": True},
        "needs the folder of a run": {},
        "likelihood='exact': it takes bound or chain": {"pretrained": mdlm, "likelihood": "exact"},
        "draws='many'": {"pretrained": mdlm, "draws": "many"},
        "draws are of likelihood=bound": {"pretrained": mdlm, "likelihood": "chain", "draws": 4},
        "order is of likelihood=chain": {"pretrained": mdlm, "order": "left"},
        "draws is for denoisers": {"pretrained": decoder, "draws": 4},
        "a run of task translation": {"pretrained": str(pair)},
        "the noise of this run has none": {"pretrained": str(runs["udlm"]), "likelihood": "chain"},
        "batch_size='x'": {"pretrained": mdlm, "batch_size": "x"},
    }.items():
        with pytest.raises(UnfitError, match=message):
            ModelFactoryLM(**settings)


def test_few_draws_are_noted(runs) -> None:
    lm = ModelFactoryLM(pretrained=str(runs["mdlm"]), draws=8)
    lm.loglikelihood(instances("loglikelihood", [("the dog", " fox")]))
    assert lm.notes() == ["8 draws are few: with fewer than 32, the standard errors are themselves uncertain"]
