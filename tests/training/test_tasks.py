"""Tasks end to end, with LoRA, EMA, other optimisers, loader workers and custom models; the task registry."""

import importlib
import subprocess
import sys
from typing import Literal

import pytest
import torch

from data_manager.registry import SOURCES
from model.registry import MODELS
from model_factory.experiment.task_registry import TASKS, choose_task, register_task
from model_factory.training.network import build_network
from model_factory.training.run.folder import load_run
from model_factory.training.tasks.base import Task
from model_factory.yaml_config.strict_model import StrictModel
from tests.training.runs import DECODER, experiment, losses, metrics, seq2seq, train, weights

PLUGIN = ("--plugin", "tests.training.plugins")


@pytest.fixture
def plugin_types():
    """Register the plugin's types for one test only, because other tests list the registries."""
    module = importlib.import_module("tests.training.plugins")
    yield module
    tasks = [(TASKS, name) for name in ("broken", "bursting", "mute", "failing")]
    for registry, name in ((MODELS, "bigram"), (SOURCES, "labelled"), *tasks):
        registry._entries.pop(name)
    del sys.modules[module.__name__]


MDLM = {"process": {"type": "absorbing"}, "schedule": {"type": "loglinear"}, "objective": {"type": "mdlm"}}


def trained(folder, *options, **changes):
    log = folder / "log"
    path = experiment(folder, **changes)
    assert train("--config", path, "--output", folder / "run", *options, log=log) == 0, log.read_text()
    return folder / "run"


def test_translation_writes_samples_and_loads(tmp_path):
    run = trained(tmp_path, **seq2seq(tmp_path))
    assert losses(run, "eval_loss")
    assert (run / "samples.txt").read_text().count("--- ") == 8  # four at each of two evaluations
    model, tokenizer, _ = load_run(run)
    source = torch.tensor([tokenizer.encode("the quick")])
    assert model.generate(source, tokenizer.bos_token_id, 3, temperature=0.0).shape == (1, 4)


def test_classification_learns_and_loads(plugin_types, tmp_path):
    encoder = {**DECODER, "vocab_size": 8}
    model = {"model_type": "encoder", "name": "sizes", "encoder": encoder}
    data = [{"name": "rows", "source": "labelled"}]
    changes = {"max_steps": 40, "learning_rate": 1e-2, "batch_size": 16, "eval_steps": 20}
    run = trained(tmp_path, *PLUGIN, model=model, datasets=data, **changes)
    assert losses(run, "eval_accuracy")[40] > 0.9
    assert "accuracy" in metrics(run)[0]
    network, _, config = load_run(run)
    assert config.training.num_labels == 2
    assert network(torch.tensor([[2, 5, 1]])).shape == (1, 2)


def test_diffusion_reports_parts_of_bound(tmp_path):
    backbone = {"type": "performer", "d_model": 16, "num_layers": 1, "num_heads": 2, "device": "cpu"}
    run = trained(tmp_path, model={"model_type": "diffusion", **MDLM, "backbone": backbone})
    entry = next(entry for entry in metrics(run) if "eval_bound" in entry)
    parts = sum(entry[f"eval_{name}"] for name in ("diffusion", "prior", "reconstruction"))
    assert entry["eval_bound"] == pytest.approx(parts, abs=1e-5)
    assert "--- 2" in (run / "samples.txt").read_text()


def test_custom_model_with_loss_trains(tmp_path):
    run = trained(tmp_path, *PLUGIN, model={"model_type": "bigram", "size": 60})
    assert losses(run)[6] < losses(run)[1]
    assert weights(run).keys() == {"table.weight"}


def test_lora_trains_adapters_only_and_merges_them(tmp_path):
    pytest.importorskip("peft")
    changes = {"model": {"model_type": "decoder", "decoder": {**DECODER, "dropout": 0.0}}, "learning_rate": 1e-2}
    base = trained(tmp_path / "base", **changes)
    lora = {"r": 2, "target_modules": ["to_q", "to_v"]}
    run = trained(tmp_path / "tuned", init_from=str(base), lora=lora, **changes)
    before, after = weights(base), weights(run)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys()
    assert changed == {name for name in before if "to_q" in name or "to_v" in name}
    last = load_run(run).model.state_dict()
    (run / "model.safetensors").unlink()
    restored = load_run(run).model.state_dict()
    assert all(torch.equal(last[name], restored[name]) for name in last)


def test_ema_weights_are_saved(tmp_path):
    run = trained(tmp_path, ema_decay=0.5, max_steps=4, save_steps=1, save_total_limit=9)
    from safetensors.torch import load_file

    steps = [load_file(run / f"checkpoint-{step}" / "model.safetensors") for step in (1, 2, 3, 4)]
    average = load_file(run / "checkpoint-1" / "ema.safetensors")
    final = weights(run)
    for step, tensors in enumerate(steps[1:], 2):
        decay = min(0.5, (1 + step) / (10 + step))
        average = {name: decay * value + (1 - decay) * tensors[name] for name, value in average.items()}
    assert all(torch.allclose(average[name], final[name], atol=1e-6) for name in average)
    assert any(not torch.equal(steps[-1][name], final[name]) for name in average)


@pytest.mark.parametrize("change", [{"optim": "adafactor"}, {"bf16": True}])
def test_optimiser_and_precision_options_train(change, tmp_path):
    run = trained(tmp_path, max_steps=4, **change)
    assert losses(run)[4] < losses(run)[1]


def test_loader_workers_do_not_change_losses(tmp_path):
    one, two = (trained(tmp_path / str(count), max_steps=4, dataloader_num_workers=count) for count in (0, 2))
    assert losses(one) == losses(two)


def test_task_registry_needs_no_torch():
    code = (
        "import sys; from model_factory.experiment.task_registry import TASKS, choose_task\n"
        "assert choose_task('anything', ['input_ids']) == 'diffusion'\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", list(TASKS))
def test_announced_task_loads_its_class(name):
    assert issubclass(TASKS.get(name).load(), Task)


def test_registered_task_keeps_its_config_type():
    class Own(StrictModel):
        type: Literal["own"] = "own"

    try:
        register_task("own", columns=("input_ids",), config=Own)(Task)
        assert TASKS.get("own").config_type is Own
        assert TASKS.get("own").load() is Task
        with pytest.raises(ValueError, match="task 'own' is already registered"):
            register_task("own", columns=("input_ids",))(Task)
    finally:
        TASKS._entries.pop("own")


def test_task_is_chosen_by_model_and_columns():
    assert choose_task("decoder", ["input_ids"]) == "language_modelling"
    assert choose_task("encoder_decoder", ["source_ids", "target_ids"]) == "translation"
    assert choose_task("encoder", ["input_ids", "labels"]) == "sequence_classification"
    assert choose_task("encoder", ["input_ids"]) is None
    assert choose_task("anything", ["input_ids"]) == "diffusion"
    pair = ["source_ids", "target_ids"]
    assert choose_task("diffusion", pair) == choose_task("anything", pair) == "conditional_diffusion"
    register_task("own_pairs", columns=pair, model_types=("anything",))(Task)
    try:
        assert choose_task("anything", pair) == "own_pairs"
    finally:
        TASKS._entries.pop("own_pairs")
    assert callable(build_network)
