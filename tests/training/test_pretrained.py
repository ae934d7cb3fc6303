"""Pretrained backbones with their own tokenizer: full training, and LoRA adapters beside new parts."""

from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from model_factory.cli.main import main
from model_factory.interop.export.backbone import logits_of_backbone
from model_factory.training.run.folder import load_run
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
        assert main(["export", "--run", str(tmp_path / "run"), "--format", "hf", "--output", str(tmp_path / "out")]) == 0
        again, noisy = before.from_pretrained(tmp_path / "out"), torch.tensor([[5, 34, 7, 34, 34, 9]])
        found = logits_of_backbone(again, noisy)[..., :34]
        assert torch.equal(found, network.denoise(noisy, None)[..., :34])
        assert AutoTokenizer.from_pretrained(tmp_path / "out").mask_token_id == 34
