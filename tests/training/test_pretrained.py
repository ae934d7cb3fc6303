"""Pretrained backbones with their own tokenizer: full training, LoRA adapters beside new parts, and sources of pairs."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from model_factory.cli.evaluate import main as evaluate
from model_factory.cli.generate import main as generate
from model_factory.cli.main import main
from model_factory.interop.export.backbone import logits_of_backbone
from model_factory.training.run.folder import load_run
from parse_args import main as check
from tests.training.runs import TEXT, experiment, losses, text, train, weights

CHARACTERS = "abcdefghijklmnopqrstuvwxyz .,"


def pretrained(folder: Path, family: str) -> Path:
    """Save a tiny model and a tokenizer of characters to one folder."""
    names = ["<pad>", "<s>", "</s>", "<unk>", "<mask>", *CHARACTERS]
    inner = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    special = {
        "pad_token": "<pad>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    PreTrainedTokenizerFast(tokenizer_object=inner, **special).save_pretrained(folder)
    sizes = {"vocab_size": len(names), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    torch.manual_seed(0)
    if family == "bert":
        wide = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
        model = transformers.BertForMaskedLM(transformers.BertConfig(**sizes, **wide))
    else:
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, n_embd=32, n_layer=2, n_head=2))
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("lora", [None, {"r": 2}], ids=["full", "adapters"])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_pretrained_backbone_trains(family: str, lora: dict[str, int] | None, tmp_path: Path) -> None:
    if lora is not None:
        pytest.importorskip("peft")
    folder = pretrained(tmp_path / family, family)
    (tmp_path / "train.txt").write_text(TEXT * 12)
    files = {"train": str(tmp_path / "train.txt"), "validation": str(tmp_path / "train.txt")}
    tokenizer = {"type": "hugging_face", "path": str(folder)}
    path = experiment(
        tmp_path,
        model={
            "model_type": "diffusion",
            "objective": {"type": "mdlm"},
            "backbone": {"type": "hugging_face", "path": str(folder), "device": "cpu"},
        },
        learning_rate=1e-2,
        datasets=[text("tiny", files, sequence_length=24, tokenizer=tokenizer)],
        **({} if lora is None else {"lora": lora}),
    )
    log = tmp_path / "log"
    assert train("--config", path, "--output", tmp_path / "run", log=log) == 0, log.read_text()
    assert losses(tmp_path / "run")
    after = weights(tmp_path / "run")
    before = transformers.AutoModelForMaskedLM if family == "bert" else transformers.AutoModelForCausalLM
    original = before.from_pretrained(folder).state_dict()
    same = {
        name for name, tensor in original.items() if torch.equal(tensor, after.get(f"network.model.{name}", tensor))
    }
    assert len(same) < len(original)
    embedding = "bert.embeddings.word_embeddings.weight" if family == "bert" else "transformer.wte.weight"
    assert (embedding in same) is (lora is not None)
    network = load_run(tmp_path / "run").model
    assert network.sample(1, steps=2).shape[0] == 1
    if lora is not None:
        assert (
            main(["export", "--run", str(tmp_path / "run"), "--format", "hf", "--output", str(tmp_path / "out")]) == 0
        )
        again, noisy = before.from_pretrained(tmp_path / "out"), torch.tensor([[5, 34, 7, 34, 34, 9]])
        found = logits_of_backbone(again, noisy)[..., :34]
        assert torch.equal(found, network.denoise(noisy, None)[..., :34])
        assert AutoTokenizer.from_pretrained(tmp_path / "out").mask_token_id == 34


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_pretrained_backbone_reads_the_sources_of_pairs(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("peft")
    folder = pretrained(tmp_path / family, family)
    lines = [f"{number % 10 * 'a'}{TEXT[number : number + 9]}".strip() for number in range(12)]
    for name, shown in (("a", lines), ("b", [line[::-1] for line in lines])):
        (tmp_path / name).write_text("\n".join(shown) + "\n")
    pair = {"source": str(tmp_path / "a"), "target": str(tmp_path / "b")}
    tokenizer = {"type": "hugging_face", "path": str(folder)}
    own = {"d_model": 12, "num_layers": 1, "num_heads": 2, "dropout": 0.0}
    encoder = own if family == "gpt2" else {"type": "hugging_face", "path": str(folder), "freeze": True}
    path = experiment(
        tmp_path,
        model={
            "model_type": "diffusion",
            "objective": {"type": "mdlm"},
            "source_dropout": 0.2,
            "backbone": {"type": "hugging_face", "path": str(folder), "device": "cpu", "encoder": encoder},
        },
        datasets=[text("pairs", {"train": pair, "validation": pair}, sequence_length=24, tokenizer=tokenizer)],
        learning_rate=1e-2,
        lora={"r": 2},
    )
    assert check(["--config", str(path), "--build"]) == 0
    log = tmp_path / "log"
    assert train("--config", path, "--output", tmp_path / "run", log=log) == 0, log.read_text()
    after = weights(tmp_path / "run")
    assert all(bool(after[f"network.cross_attention.layers.{index}.to_out.weight"].any()) for index in range(2))
    kept = [name for name in after if name.startswith("network.source.encoder.")]
    if family == "bert":
        original = transformers.BertModel.from_pretrained(folder).state_dict()
        assert all(
            torch.equal(after[name], original[name.removeprefix("network.source.encoder.model.")]) for name in kept
        )
    shared = [
        "--run",
        str(tmp_path / "run"),
        "--steps",
        "2",
        "--sampler",
        "ancestral",
        "--set",
        "generation.guidance=1.5",
    ]
    assert evaluate([*shared, "--max-rows", "3", "--json"]) == 0
    capsys.readouterr()
    assert generate([*shared, "--prompt", "the quick fox", "--json"]) == 0
    samples = json.loads(capsys.readouterr().out)["samples"]
    assert [sample["prompt"] for sample in samples] == ["the quick fox"] * 2
