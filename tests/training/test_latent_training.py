"""Latent diffusion through the Trainer: weights trained per stage, resume, DDP, pretrained parts, stage schedules."""

import json
import random
from pathlib import Path

import pytest
import torch
import transformers

from model_factory.experiment.training_types import TrainingConfig
from model_factory.training.run.folder import load_run
from model_factory.training.tasks.latent_diffusion import locate_step, stage_lr_factors
from tests.training.runs import experiment, losses, metrics, text, train, train_by_two, weights
from tests.training.test_pretrained import pretrained

PERFORMER = {"type": "performer", "d_model": 16, "num_layers": 1, "num_heads": 2, "dropout": 0.0}
MODEL = {
    "model_type": "latent_diffusion",
    "encoder": PERFORMER,
    "decoder": {**PERFORMER, "routes": ["embedding", "memory"]},
    "latent": {"size": 4},
    "denoiser": {"type": "mlp", "width": 16, "num_layers": 2},
    "diffusion": {"num_steps": 20},
    "device": "cpu",
}
STAGES = [
    {"train": "autoencoder", "steps": 2},
    {"train": "diffusion", "steps": 2},
    {"train": "joint", "warmup_steps": 1},
]


def sentences(folder: Path, **more) -> list[dict]:
    """Write a data set of short lines, one row per line."""
    folder.mkdir(parents=True, exist_ok=True)
    source = random.Random(0)
    lines = [" ".join(source.choices(["ab", "cab", "d", "bad"], k=source.randint(1, 4))) for _ in range(24)]
    (folder / "train.txt").write_text("\n".join(lines))
    (folder / "valid.txt").write_text("\n".join(lines[:5]))
    files = {"train": str(folder / "train.txt"), "validation": str(folder / "valid.txt")}
    return [text("tiny", files, documents="line", rows="whole", sequence_length=24, **more)]


def latent(folder: Path, model: dict | None = None, datasets: list | None = None, **training) -> Path:
    return experiment(
        folder,
        model=MODEL if model is None else model,
        datasets=sentences(folder) if datasets is None else datasets,
        **{"stages": STAGES, "learning_rate": 1e-2, **training},
    )


def test_latent_stage_trains_only_its_own_weights(tmp_path):
    log = tmp_path / "log"
    path = latent(tmp_path, save_total_limit=None, weight_decay=0.1)
    assert train("--config", path, "--output", tmp_path / "run", log=log) == 0, log.read_text()
    first, second, last = (weights(tmp_path / "run" / f"checkpoint-{step}") for step in (2, 4, 6))
    start = weights_at_start(path)
    denoiser = {name for name in last if name.startswith("ddpm.eps_model")}
    tables = {name for name in last if name.startswith("ddpm.") and name not in denoiser}
    others = set(last) - denoiser - tables
    for before, after, moved in ((start, first, others), (first, second, denoiser), (second, last, others | denoiser)):
        changed = {name for name in last if not torch.equal(before[name], after[name])}
        assert changed <= moved
        assert len(changed) > 0.7 * len(moved)
    shown = {name for entry in metrics(tmp_path / "run") for name in entry}
    assert {"reconstruction", "kl", "diffusion", "eval_reconstruction", "eval_kl", "eval_diffusion"} <= shown
    samples = (tmp_path / "run" / "samples.txt").read_text()
    assert "text    " in samples
    assert "rebuilt " in samples
    assert "drawn   " in samples


def weights_at_start(path: Path) -> dict[str, torch.Tensor]:
    """Return the initial weights of an experiment, as the engine builds them."""
    from model.checkpoint import named_tensors
    from model.model_factory import create_model
    from model_factory.experiment.build import with_vocabulary
    from model_factory.experiment.config import read_experiment

    config = with_vocabulary(read_experiment(path).config)
    torch.manual_seed(config.training.seed)
    return {name: tensor.clone() for name, tensor in named_tensors(create_model(config.model)).items()}


def test_latent_resume_is_bit_exact(tmp_path):
    path, log = latent(tmp_path), tmp_path / "log"
    assert train("--config", path, "--output", tmp_path / "whole", log=log) == 0, log.read_text()
    crashed = tmp_path / "stopped"
    assert train("--config", path, "--output", crashed, log=log) == 0
    (crashed / "model.safetensors").unlink()
    for file in (crashed / "checkpoint-6").iterdir():
        file.unlink()
    (crashed / "checkpoint-6").rmdir()
    assert train("--config", path, "--output", crashed, "--resume", log=log) == 0, log.read_text()
    whole, again = weights(tmp_path / "whole"), weights(crashed)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_latent_ddp_matches_single_process(tmp_path):
    path, log = latent(tmp_path, batch_size=2, ddp_find_unused_parameters=True), tmp_path / "log"
    assert train_by_two("--config", path, "--output", tmp_path / "two", log=log) == [0, 0], log.read_text()
    by_one = ("--set", "training.batch_size=4")
    assert train("--config", path, "--output", tmp_path / "one", *by_one, log=log) == 0, log.read_text()
    for key in ("loss", "eval_loss"):
        assert losses(tmp_path / "two", key) == pytest.approx(losses(tmp_path / "one", key), abs=1e-4)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-4


def test_latent_ddp_needs_find_unused_parameters(tmp_path):
    path, log = latent(tmp_path), tmp_path / "log"
    assert train_by_two("--config", path, "--output", tmp_path / "two", log=log) == [1, 1]
    assert "set training.ddp_find_unused_parameters: true" in log.read_text()


def test_latent_pretrained_parts_keep_weights_and_tokenizers(tmp_path):
    """An encoder with another tokenizer retokenises the texts; training starts from the weights of both parts."""
    bert, gpt2 = pretrained(tmp_path / "bert", "bert"), pretrained(tmp_path / "gpt2", "gpt2")
    shuffled = json.loads((bert / "tokenizer.json").read_text())
    vocabulary = shuffled["model"]["vocab"]
    swapped = {"a": vocabulary["b"], "b": vocabulary["a"]}
    shuffled["model"]["vocab"] = vocabulary | swapped
    (bert / "tokenizer.json").write_text(json.dumps(shuffled))
    model = {
        **MODEL,
        "encoder": {"type": "BertForLatentConnectorNew", "path": str(bert)},
        "decoder": {"type": "GPT2ForLatentConnectorNew", "path": str(gpt2)},
    }
    datasets = sentences(tmp_path, tokenizer={"type": "hugging_face", "path": str(gpt2)})
    log = tmp_path / "log"
    path = latent(tmp_path, model, datasets)
    assert train("--config", path, "--output", tmp_path / "run", log=log) == 0, log.read_text()
    after = weights(tmp_path / "run")
    theirs = transformers.AutoModel.from_pretrained(bert).state_dict()
    name = "embeddings.word_embeddings.weight"
    assert torch.equal(after[f"encoder.backbone.{name}"], theirs[name])
    wte = transformers.AutoModel.from_pretrained(gpt2).state_dict()["wte.weight"]
    assert torch.equal(after["decoder.transformer.backbone.wte.weight"], wte)
    run = load_run(tmp_path / "run")
    assert run.model.sample_latents(2, steps=2).shape == (2, 4)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("encoder without a tokenizer", "has no tokenizer beside its weights"),
        ("data of characters", "writes by its own tokenizer, and the data set's is of characters"),
        ("another tokenizer", "gives tokens other ids than the tokenizer of the data set"),
    ],
)
def test_latent_pretrained_parts_refuse_other_tokenizers(spoil, message, tmp_path):
    bert, gpt2 = pretrained(tmp_path / "bert", "bert"), pretrained(tmp_path / "gpt2", "gpt2")
    tokenizer = {"type": "hugging_face", "path": str(bert)}
    if spoil == "encoder without a tokenizer":
        for file in bert.glob("tokenizer*"):
            file.unlink()
        tokenizer["path"] = str(gpt2)
    elif spoil == "data of characters":
        tokenizer = {"type": "characters"}
    else:
        content = json.loads((bert / "tokenizer.json").read_text())
        content["model"]["vocab"] |= {"a": content["model"]["vocab"]["b"], "b": content["model"]["vocab"]["a"]}
        (bert / "tokenizer.json").write_text(json.dumps(content))
    encoder = {"type": "BertForLatentConnector", "path": str(bert)}
    model = {**MODEL, "encoder": encoder, "decoder": {"type": "GPT2ForLatentConnector", "path": str(gpt2)}}
    log = tmp_path / "log"
    path = latent(tmp_path, model, sentences(tmp_path, tokenizer=tokenizer))
    assert train("--config", path, "--output", tmp_path / "run", log=log) == 1
    assert message in log.read_text()


def test_latent_encoder_retokenises_texts(tmp_path):
    from data_manager.tokenizers.hugging_face import HuggingFaceTokenizer
    from model_factory.training.tasks.encoder_texts import EncoderTexts

    bert, gpt2 = pretrained(tmp_path / "bert", "bert"), pretrained(tmp_path / "gpt2", "gpt2")
    content = json.loads((bert / "tokenizer.json").read_text())
    content["model"]["vocab"] |= {"a": content["model"]["vocab"]["b"], "b": content["model"]["vocab"]["a"]}
    (bert / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = HuggingFaceTokenizer.load(gpt2)
    rows = [[tokenizer.bos_token_id, *tokenizer.encode(word), tokenizer.eos_token_id] for word in ("a", "b")]
    ids = torch.tensor(rows)
    encoded, mask = EncoderTexts(str(bert), tokenizer)(ids, torch.ones_like(ids).bool())
    a, b = tokenizer.encode("a")[0], tokenizer.encode("b")[0]
    assert encoded[mask].tolist() == [b, a]


def test_stages_are_located_by_step():
    settings = TrainingConfig(
        max_steps=10, stages=[{"train": "autoencoder", "steps": 4}, {"train": "joint", "warmup_steps": 4}]
    )
    found = [
        (moment.stage.train, moment.step, moment.steps)
        for moment in (locate_step(settings, step) for step in (0, 3, 4, 9))
    ]
    assert found == [("autoencoder", 0, 4), ("autoencoder", 3, 4), ("joint", 0, 6), ("joint", 5, 6)]
    assert [locate_step(settings, step).encoder_share for step in (4, 6, 9)] == [0.0, 0.5, 1.0]
    halves = TrainingConfig(max_steps=5)
    assert [locate_step(halves, step).stage.train for step in range(5)] == ["autoencoder"] * 2 + ["diffusion"] * 3


def test_stages_have_own_learning_rate_schedules():
    stages = [{"train": "autoencoder", "steps": 4}, {"train": "diffusion", "learning_rate": 0.5}]
    settings = TrainingConfig(max_steps=8, learning_rate=1.0, lr_scheduler_type="linear", stages=stages)
    rate = stage_lr_factors(settings)
    assert [rate(step) for step in range(8)] == pytest.approx([1, 0.75, 0.5, 0.25, 0.5, 0.375, 0.25, 0.125])
    warm = stage_lr_factors(settings.model_copy(update={"warmup_steps": 2}))
    assert [warm(step) for step in (0, 1, 2, 4, 5, 6)] == pytest.approx([0, 0.5, 1, 0, 0.25, 0.5])
