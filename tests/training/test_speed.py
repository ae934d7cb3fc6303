"""Wait for batches, FLOPs of a step and MFU, and batches that are uploaded from pinned memory."""

import threading
import time
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.flop_counter import FlopCounterMode

from data_manager.rows.collate import TextCollator
from model.activation_checkpointing import checkpoint_activations
from model_factory.experiment.config import read_experiment
from model_factory.experiment.training_types import TrainingConfig
from model_factory.training.arguments import training_arguments
from model_factory.training.callbacks import upload
from model_factory.training.engine import train
from model_factory.training.network import TaskModule, build_network
from model_factory.training.noise import RowNoise
from model_factory.training.rows import RowCollator, Rows
from model_factory.training.share import Share
from model_factory.training.speed.flops import StepFlops
from model_factory.training.speed.meter import (
    FLOAT32_TFLOPS,
    PEAK_TFLOPS,
    SpeedMeter,
    create_meter,
    find_peak,
    peak_flops,
)
from model_factory.training.stream import Data
from model_factory.training.trainer import FactoryTrainer
from model_factory.yaml_config.dump import dump
from tests.training.runs import DECODER, bytes_of, experiment, losses, metrics

CPU = torch.device("cpu")


# FLOPs against hand counts: a linear layer takes 2 * weights for each of its inputs forward, and twice that backward.

SIZE, LAYERS, HEADS, ROWS, LENGTH, TOKENS = 32, 2, 2, 6, 40, 20
SPECTRUM = 256
"""Sinusoids of the noise level, which need no gradient."""


@pytest.fixture
def module_of(tmp_path):
    """Return a function that builds the module which a run trains."""

    def build(model, task):
        path = tmp_path / "model.yml"
        path.write_text(dump({"model": model, "training": {"task": task}}))
        return TaskModule(*build_network(read_experiment(path).config, None))

    return build


@pytest.fixture
def denoiser(module_of):
    """Return a function that builds a diffusion model with a small backbone."""

    def build(process="uniform", objective="udlm", **backbone):
        settings = {"d_model": SIZE, "num_layers": LAYERS, "num_heads": HEADS, "dropout": 0.0, **backbone}
        parts = {"process": {"type": process}, "objective": {"type": objective}, "vocab_size": TOKENS}
        told = {"time_conditioning": True} if process == "absorbing" else {}
        return module_of({"model_type": "diffusion", "name": "m", **parts, **told, "backbone": settings}, "diffusion")

    return build


def batch_of(rows=ROWS, length=LENGTH):
    ids = torch.arange(rows * length).view(rows, length) % TOKENS
    return {"input_ids": ids, "noise": RowNoise(0, 0, torch.arange(rows), torch.arange(rows), rows)}


def linear(inputs, outputs, count):
    return 6 * inputs * outputs * count


def test_flops_of_ddit_equal_a_hand_count(denoiser):
    module = denoiser(type="ddit", cond_dim=16, d_ff=4)
    count = ROWS * LENGTH
    told = 4 * SPECTRUM * 16 * ROWS + linear(16, 16, ROWS)
    modulation = LAYERS * linear(16, 6 * SIZE, ROWS) + linear(16, 2 * SIZE, ROWS)
    layer = linear(SIZE, 4 * SIZE, count) + 2 * linear(SIZE, 4 * SIZE, count) + 12 * LENGTH * SIZE * count
    by_hand = told + modulation + LAYERS * layer + linear(SIZE, TOKENS, count)
    assert StepFlops(module).count(batch_of()) == pytest.approx(by_hand, rel=1e-3)
    parameters = sum(value.numel() for value in module.parameters())
    assert 6 * parameters * count > 1.2 * by_hand  # the matrices of adaLN act once a row


def test_flops_of_masked_diffusion_count_the_head_of_masked_rows_only(denoiser):
    found = {
        process: StepFlops(denoiser(process, objective, type="ddit")).count(batch_of())
        for process, objective in (("uniform", "udlm"), ("absorbing", "mdlm"))
    }
    saved = found["uniform"] - found["absorbing"]
    assert 0.3 < saved / linear(SIZE, TOKENS, ROWS * LENGTH) < 0.7


def products(q, k, v, weight):
    """Linear attention as plain matrix products, of which torch counts forward and backward."""
    of_queries, of_keys = (x @ weight.T for x in (q, k))
    wide = torch.cat([v, torch.ones_like(v[..., :1])], -1)
    out = of_queries.relu() @ (of_keys.relu().transpose(-1, -2) @ wide)
    return out[..., :-1] / (1 + out[..., -1:])


def test_flops_of_performer_equal_a_hand_count(denoiser):
    features, width, count = 24, SIZE // HEADS, ROWS * LENGTH
    attention = {"attention_type": "linear", "nb_features": features}
    module = denoiser(type="performer", d_ff=4, **attention)
    q, k, v = (torch.rand(ROWS, HEADS, LENGTH, width, requires_grad=True) for _ in range(3))
    with FlopCounterMode(display=False) as counter:
        products(q, k, v, torch.rand(features, width)).sum().backward()
    layer = 4 * linear(SIZE, SIZE, count) + 2 * linear(SIZE, 4 * SIZE, count) + counter.get_total_flops()
    by_hand = LAYERS * layer + linear(SIZE, TOKENS, count)
    network = module.network.network
    rows = [part for name, part in network.named_modules() if isinstance(part, nn.Linear) and "told" in name]
    by_hand += sum(linear(part.in_features, part.out_features, ROWS) for part in rows)
    assert StepFlops(module).count(batch_of()) == pytest.approx(by_hand, rel=0.01)


def test_flops_of_decoder_equal_a_hand_count(module_of):
    settings = {**DECODER, "vocab_size": TOKENS}
    module = module_of({"model_type": "decoder", "name": "m", "decoder": settings}, "language_modelling")
    width, count = DECODER["d_model"], ROWS * LENGTH
    inputs = ROWS * (LENGTH - 1)  # the last token predicts nothing
    layer = linear(width, 4 * width, inputs) + 2 * linear(width, 4 * width, inputs)
    by_hand = layer + 12 * (LENGTH - 1) * width * inputs + linear(width, TOKENS, inputs)
    assert StepFlops(module).count(batch_of()) == pytest.approx(by_hand, rel=0.01)
    assert count > inputs


@pytest.mark.parametrize("kind", ["selective", "full"])
def test_flops_leave_out_what_checkpoints_recompute(kind, denoiser):
    module = denoiser(type="ddit")
    plain = StepFlops(module).count(batch_of())
    assert checkpoint_activations(module.network, kind) == LAYERS
    assert StepFlops(module).count(batch_of()) == plain


def test_counting_changes_neither_weights_nor_random_numbers_nor_buffers(denoiser):
    module = denoiser(type="performer", attention_type="linear")
    before = {name: value.clone() for name, value in module.state_dict().items()}
    buffers = {name: value.clone() for name, value in module.named_buffers()}
    state = torch.get_rng_state()
    counter = StepFlops(module)
    assert {type(value) for value in counter.module.parameters()} == {FakeTensor}
    first, second = counter.count(batch_of()), counter.count(batch_of(12))
    assert second == pytest.approx(2 * first, rel=1e-3)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(torch.equal(value, buffers[name]) for name, value in module.named_buffers())
    assert all(value.grad is None for value in module.parameters())


# The figures of a run.


def test_mfu_is_flops_a_token_times_speed_over_peak(denoiser):
    module, batch = denoiser(type="ddit"), batch_of()
    meter = SpeedMeter(CPU, 1e12, StepFlops(module), devices=2)
    meter.count_flops([batch, batch])
    a_token = StepFlops(module).count(batch) / (ROWS * LENGTH)
    meter.seconds -= 1000.0
    found = meter.measure(5, 4_000_000_000)
    assert found["mfu"] == pytest.approx(a_token * found["tokens_per_second"] / 2e12, rel=1e-3)


def test_failure_to_count_leaves_mfu_out_and_is_said_once(denoiser, capsys):
    module = denoiser(type="ddit")
    module.network.network.head.register_forward_hook(lambda part, given, out: print(float(out.sum())))
    meter = SpeedMeter(CPU, 1e12, StepFlops(module))
    for _ in range(2):
        meter.count_flops([batch_of()])
    assert capsys.readouterr().err.count("note: mfu is left out: the FLOPs of a step cannot be counted (") == 1
    meter.seconds -= 1.0
    assert "mfu" not in meter.measure(1, 100)


def test_module_that_cannot_be_copied_trains_without_mfu(denoiser, capsys):
    module = denoiser(type="ddit")
    module.network.lock = threading.Lock()
    meter = create_meter(module, CPU, TrainingConfig(peak_tflops=1))
    assert meter.flops is None
    assert "note: mfu is left out: the FLOPs of a step cannot be counted (cannot pickle" in capsys.readouterr().err
    assert create_meter(module, CPU, TrainingConfig()).peak is None
    assert capsys.readouterr().err == ""


def test_wait_for_batches_is_a_share_of_the_interval():
    def slow():
        for number in range(3):
            time.sleep(0.05)
            yield number

    meter = SpeedMeter(CPU)
    assert list(meter.timed(slow())) == [0, 1, 2]
    assert meter.waited >= 0.15
    meter.waited, meter.seconds = 0.3, time.perf_counter() - 1.0
    found = meter.measure(4, 0)
    assert found["step_ms"] == pytest.approx(1e3 / found["steps_per_second"], rel=1e-3)
    assert found["data_wait"] == pytest.approx(0.3 * found["steps_per_second"] / 4, rel=1e-2)
    meter.seconds -= 1.0
    assert meter.measure(5, 0)["data_wait"] == 0  # begun anew


def test_peak_of_known_gpus():
    for name, half, single in (
        ("NVIDIA H100 80GB HBM3", 989, 67),
        ("NVIDIA H100 PCIe", 756, 51),
        ("NVIDIA GH200 480GB", 989, 67),
        ("NVIDIA A100-SXM4-40GB", 312, 19.5),
        ("NVIDIA L40", 181, 90.5),
        ("NVIDIA GeForce RTX 4090", 165, 82.6),
    ):
        assert find_peak(name, PEAK_TFLOPS) == half * 1e12
        assert find_peak(name, FLOAT32_TFLOPS) == single * 1e12
    for name in ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA GeForce RTX 4090 Laptop GPU", "Quadro P400"):
        assert find_peak(name, PEAK_TFLOPS) is None
    assert peak_flops(CPU, is_half=True) is None


def test_run_with_a_peak_logs_mfu_and_trains_as_without(tmp_path):
    runs = {}
    for name, more in (("plain", {}), ("measured", {"peak_tflops": 0.01})):
        path = experiment(tmp_path / name, max_steps=4, gradient_accumulation_steps=2, **more)
        train(read_experiment(path).config, tmp_path / name / "run")
        runs[name] = tmp_path / name / "run"
    assert losses(runs["plain"]) == losses(runs["measured"])
    assert bytes_of(runs["plain"]) == bytes_of(runs["measured"])
    assert len(losses(runs["measured"], "mfu")) == 4
    assert all(value > 0 for value in losses(runs["measured"], "mfu").values())
    logged = [entry for entry in metrics(runs["plain"]) if "loss" in entry]
    assert all(0 <= entry["data_wait"] <= 1 and entry["step_ms"] > 0 and "mfu" not in entry for entry in logged)


# Batches from pinned memory.


class Spy(torch.Tensor):
    """Tensor that says it is pinned, and records how it is copied."""

    copies: ClassVar[list] = []

    def is_pinned(self, *_):
        return True

    def to(self, *args, **kwargs):
        self.copies.append((*args, kwargs))
        return self


@pytest.mark.parametrize("pin", [True, False])
def test_pinned_batches_are_passed_to_the_libraries(pin, tmp_path):
    settings = TrainingConfig(dataloader_pin_memory=pin)
    arguments = training_arguments(settings, Share(2), str(tmp_path), use_cpu=False)
    assert arguments.dataloader_pin_memory is pin
    assert arguments.accelerator_config.non_blocking is pin
    rows = Rows([{"input_ids": [1, 2]}] * 4)
    data = Data(rows, None, RowCollator(TextCollator(0), 0, 2), Share(2))
    assert data.loader(0, 2, 0, pin=pin).pin_memory is pin


def test_trainer_uploads_pinned_batches_without_waiting(tmp_path):
    Spy.copies.clear()
    spy, device = torch.ones(2).as_subclass(Spy), torch.device("cuda", 0)
    trainer = SimpleNamespace(args=SimpleNamespace(device=device))
    assert FactoryTrainer._prepare_input(trainer, spy) is spy
    assert upload(spy, device) is spy
    assert Spy.copies == [(device, {"non_blocking": True})] * 2
    upload(spy, CPU)
    assert Spy.copies[-1] == (CPU, {"non_blocking": False})


def test_settings_of_speed_do_not_change_a_run(tmp_path):
    path, run = experiment(tmp_path), tmp_path / "run"
    train(read_experiment(path).config, run)
    options = ["training.peak_tflops=100", "training.dataloader_pin_memory=false"]
    assert train(read_experiment(path, options).config, run, resume=True).was_finished
