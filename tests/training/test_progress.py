"""Header of a run, and the figures of its progress: tokens, speed, time."""

import time

import pytest
import torch

from model_factory.training.speed.meter import PEAK_TFLOPS, SpeedMeter, count_tokens
from model_factory.training.speed.progress import describe_seconds, format_progress
from tests.training.runs import experiment, metrics, seq2seq, train


def test_tokens_are_counted_without_padding():
    ids, mask = torch.ones(2, 5, dtype=torch.long), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
    assert count_tokens({"input_ids": ids, "attention_mask": mask, "position_ids": ids, "labels": ids[0]}) == 8
    assert count_tokens({"input_ids": ids}) == 10
    assert count_tokens({"source_ids": ids, "source_mask": mask, "target_ids": ids[:, :2]}) == 12
    assert count_tokens({"features": torch.ones(2, 7, 4)}) == 0


def test_speed_leaves_evaluation_out():
    meter = SpeedMeter(torch.device("cpu"))
    meter.begin(0, 0)
    since = time.perf_counter()
    meter.seconds -= 8.0  # 8 s of training before an evaluation of 4 s
    since -= 4.0
    meter.leave_out(since)
    found = meter.measure(4, 400)
    assert found["steps_per_second"] == pytest.approx(1.0, rel=0.05)
    assert found["step_ms"] == pytest.approx(1000, rel=0.05)
    assert found["data_wait"] == 0
    assert found["tokens_per_second"] == pytest.approx(100, rel=0.05)
    assert "mfu" not in found  # a CPU has no known peak
    assert meter.measure(4, 400) == {}


def test_durations_and_figures_in_words():
    assert [describe_seconds(value) for value in (4.24, 61, 200.4, 7500)] == [
        "4.2 s",
        "1 min 1 s",
        "3 min 20 s",
        "2 h 5 min",
    ]
    entry = {"loss": 2.5, "learning_rate": 1e-3, "tokens_per_second": 12_345.6, "mfu": 0.4123, "epoch": 1.0}
    assert format_progress({"loss": 1.0, "memory_gib": 0.5}, memory=True) == "loss 1  memory 0.50 GiB"
    assert format_progress(entry) == "loss 2.5  learning_rate 0.001  tokens/s 12,346  MFU 41.2%"
    assert format_progress({"loss": 1.0, "data_wait": 0.0312}) == "loss 1  data wait 3.1%"
    assert all(5 < peak < 10_000 for peak in PEAK_TFLOPS.values())


def test_header_and_metrics_of_a_run(tmp_path):
    path, log = experiment(tmp_path, max_steps=4, **seq2seq(tmp_path / "data")), tmp_path / "log"
    assert train("--config", path, "--output", tmp_path / "run", log=log) == 0
    said = log.read_text()
    for part in (
        "  model: tiny_pair (encoder_decoder), ",
        " parameters (",
        "  data: 40 rows to train on, ",
        " tokens; 40 to evaluate on",
        "  length: 4 steps of 4 rows, 0.4 epochs; an epoch has 10 steps",
        "  precision: float32",
        "  logits: in chunks of rows with a loss, by a head of ",
        ": trained to step 4 in ",
    ):
        assert part in said
    found = [entry for entry in metrics(tmp_path / "run") if "loss" in entry]
    tokens = [entry["tokens"] for entry in found]
    assert tokens == sorted(tokens)
    assert tokens[0] > 0
    assert all(
        {"grad_norm", "epoch", "tokens_per_second", "memory_gib", "step_ms", "data_wait"} <= entry.keys()
        for entry in found
    )
