"""Exports for transformers: equal outputs, equal generation, equal bytes after another round."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    LlamaForCausalLM,
)

import model_factory.interop.hf  # noqa: F401
from model.model_factory import create_model
from model.model_types import EncoderConfig, ModelConfig
from model.transformer.inputs import InputError
from model_factory.interop.export.backbone import logits_of_backbone
from model_factory.interop.hf.config import make_hub_config
from model_factory.interop.hf.denoiser import ModelFactoryDenoiser
from model_factory.interop.hf.encoder import ModelFactoryEncoder
from model_factory.training.engine import train
from parse_args import parse_experiment
from tests.evaluation.untrained_runs import make_run, text_data
from tests.interop.exports import (
    BERT,
    DDIT,
    PERFORMER,
    decoder,
    denoiser,
    export,
    model_of,
    opened,
    pair,
    sharpen,
    write_run,
)
from tests.interop.pretrained import KINDS, write_pretrained
from tests.model.tiny import params

RAGGED = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
SETTINGS = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None, "max_new_tokens": 12}


def tokens(batch: int = 3, length: int = 6, count: int = 20) -> torch.Tensor:
    return torch.randint(4, count, (batch, length), generator=torch.Generator().manual_seed(0))


def same_files(first: Path, second: Path) -> bool:
    names = sorted(path.name for path in second.iterdir())
    return all((first / name).read_bytes() == (second / name).read_bytes() for name in names) and len(names) >= 2


@pytest.mark.parametrize("attention", ["softmax", "causal_linear"])
def test_decoder_generates_as_the_run(attention: str, tmp_path: Path, capsys: Any) -> None:
    run = write_run(tmp_path / "r", decoder(attention_type=attention))
    sharpen(run)
    code, printed = export(run, tmp_path / "out", capsys, "--format", "hf")
    assert (code, printed["class"]) == (0, "ModelFactoryForCausalLM")
    ours, theirs = model_of(run), AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids, mask = tokens(), RAGGED
    assert torch.equal(theirs(ids).logits, ours(ids))
    for beams in (1, 3):
        wanted = ours.generate(ids, 12, temperature=0.0, num_beams=beams, mask=mask.bool(), pad_token=0)
        found = theirs.generate(ids, attention_mask=mask, num_beams=beams, **SETTINGS)
        assert torch.equal(found, wanted)
        assert len(set(found[:, 6:].flatten().tolist())) > 2
    end = int(ours.generate(ids, 12, temperature=0.0, mask=mask.bool())[0, 9])  # a token that ends some row
    wanted = ours.generate(ids, 12, temperature=0.0, mask=mask.bool(), eos_token=end, pad_token=0)
    found = theirs.generate(ids, attention_mask=mask, **{**SETTINGS, "eos_token_id": end})
    assert torch.equal(found, wanted)
    assert int(theirs.generation_config.eos_token_id) == 2
    theirs.save_pretrained(tmp_path / "again")
    assert same_files(tmp_path / "out", tmp_path / "again")
    narrow = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in narrow.parameters()} == {torch.bfloat16}
    assert torch.isfinite(narrow(ids).logits).all()


def test_padded_row_has_the_logits_and_loss_of_the_row_alone(tmp_path: Path, capsys: Any) -> None:
    run = write_run(tmp_path / "r", decoder())
    assert export(run, tmp_path / "out", capsys, "--format", "hf")[0] == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = tokens()
    found = model(ids, attention_mask=RAGGED, labels=ids.masked_fill(RAGGED == 0, -100))
    alone = [model(ids[row : row + 1, 6 - size :]).logits[0] for row, size in enumerate((3, 5, 6))]
    for row, size in enumerate((3, 5, 6)):
        assert torch.allclose(found.logits[row, 6 - size :], alone[row], atol=1e-6)
    losses = [
        torch.nn.functional.cross_entropy(one[:-1], ids[row, 7 - len(one) :], reduction="sum")
        for row, one in enumerate(alone)
    ]
    assert torch.allclose(found.loss, torch.stack(losses).sum() / 11, atol=1e-6)


def test_decoder_refuses_caches_and_embeddings(tmp_path: Path, capsys: Any) -> None:
    run = write_run(tmp_path / "r", decoder())
    assert export(run, tmp_path / "out", capsys, "--format", "hf")[0] == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    from transformers import DynamicCache

    with pytest.raises(InputError, match="DynamicCache"):
        model.generate(tokens(), past_key_values=DynamicCache(), **SETTINGS)
    with pytest.raises(InputError, match="inputs_embeds"):
        model(inputs_embeds=torch.zeros(1, 2, 16))
    with pytest.raises(RuntimeError, match="assisted decoding requires a cache"):  # of transformers
        model.generate(tokens(1), assistant_model=model, **SETTINGS)


@pytest.mark.parametrize("attention", ["softmax", "causal_linear"])
def test_encoder_decoder_generates_as_the_run(attention: str, tmp_path: Path, capsys: Any) -> None:
    run = write_run(tmp_path / "r", pair(attention_type=attention))
    sharpen(run)
    assert export(run, tmp_path / "out", capsys, "--format", "hf")[0] == 0
    ours, theirs = model_of(run), AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")
    source, mask = tokens(), RAGGED.flip(1)  # padded on the right
    begin = torch.full((3, 1), 1)
    context = ours.encode(source, mask.bool())
    for beams in (1, 3):
        wanted = ours.decoder.generate(
            begin, 12, temperature=0.0, num_beams=beams, context=context, context_mask=mask.bool(), pad_token=0
        )
        found = theirs.generate(source, attention_mask=mask, num_beams=beams, **SETTINGS)
        assert torch.equal(found, wanted)
    target = tokens(length=5)
    shifted = torch.cat([begin, target[:, :-1]], 1)
    output = theirs(source, attention_mask=mask, labels=target)
    assert torch.equal(output.logits, ours(source, shifted, mask.bool()))
    assert torch.allclose(output.loss, torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), target.flatten()))
    theirs.save_pretrained(tmp_path / "again")
    assert same_files(tmp_path / "out", tmp_path / "again")


@pytest.mark.parametrize(
    "model",
    [
        denoiser(DDIT),
        denoiser({**PERFORMER, "attention_type": "linear"}),
        denoiser({**BERT, "tie_embeddings": True}),
        denoiser(DDIT, "sedd"),
        denoiser(DDIT, "udlm", process={"type": "uniform"}),
        denoiser(DDIT, "bd3lm"),
    ],
    ids=["mdlm", "linear", "bert-tied", "sedd", "udlm", "bd3lm"],
)
def test_denoiser_denoises_and_samples_as_the_run(model: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    run = write_run(tmp_path / "r", model)
    sharpen(run)
    code, printed = export(run, tmp_path / "out", capsys, "--format", "hf")
    assert (code, printed["class"]) == (0, "ModelFactoryDenoiser")
    ours, theirs = model_of(run), AutoModel.from_pretrained(tmp_path / "out")
    ids = tokens(length=8)
    levels = torch.tensor([0.1, 0.5, 2.0])
    assert torch.equal(theirs(ids, levels).logits, ours.denoise(ids, levels))
    draws = [torch.Generator().manual_seed(5) for _ in range(2)]
    wanted = ours.sample(4, 12, 6, prompt=ids[:2, :4].repeat_interleave(2, 0), generator=draws[0])
    found = theirs.generate(ids[:2, :4], max_new_tokens=8, steps=6, num_samples=4, generator=draws[1])
    assert torch.equal(found, wanted)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.mask_token_id == theirs.config.mask_token_id == ours.process.graph.mask_token
    theirs.save_pretrained(tmp_path / "again")
    assert same_files(tmp_path / "out", tmp_path / "again")


def test_denoiser_with_an_encoder_reads_its_source(tmp_path: Path, capsys: Any) -> None:
    encoder = {"type": "performer", "d_model": 16, "num_layers": 1, "num_heads": 2}
    run = write_run(tmp_path / "r", denoiser({**DDIT, "encoder": encoder}))
    sharpen(run)
    assert export(run, tmp_path / "out", capsys, "--format", "hf")[0] == 0
    ours, theirs = model_of(run), AutoModel.from_pretrained(tmp_path / "out")
    source, mask = {"context_ids": tokens(length=6), "context_mask": RAGGED.flip(1)}, RAGGED.flip(1).bool()
    ids = tokens(length=8)
    wanted = ours.denoise(ids, None, **ours.encode(source["context_ids"], mask))
    assert torch.equal(theirs(ids, **source).logits, wanted)
    assert "context_ids=source" in (tmp_path / "out" / "README.md").read_text()
    draws = [torch.Generator().manual_seed(5) for _ in range(2)]
    options = {"steps": 4, "context_ids": source["context_ids"]}
    found = theirs.generate(max_new_tokens=8, num_samples=3, generator=draws[1], **options)
    assert torch.equal(found, ours.sample(3, 8, generator=draws[0], **options))


def test_model_that_inserts_tokens_pads_its_rows(tmp_path: Path, capsys: Any) -> None:
    run = write_run(tmp_path / "r", denoiser(DDIT, "flexmdm"), documents="line", rows="whole", sequence_length=90)
    sharpen(run)
    code, printed = export(run, tmp_path / "out", capsys, "--format", "hf")
    assert (code, printed["class"]) == (0, "ModelFactoryDenoiser")
    ours, theirs = model_of(run), AutoModel.from_pretrained(tmp_path / "out")
    assert {name: tensor.tolist() for name, tensor in theirs.network.state_dict().items()} == {
        name: tensor.tolist() for name, tensor in ours.state_dict().items()
    }
    ids, levels, mask = tokens(length=6), torch.tensor([0.1, 0.5, 2.0]), RAGGED.flip(1)
    found = theirs(ids, levels, attention_mask=mask).logits
    assert torch.equal(found, ours.denoise(ids.masked_fill(mask == 0, -1), levels))
    assert found.shape == (3, 7, ours.width)
    for row, size in enumerate((3, 5, 6)):
        alone = theirs(ids[row : row + 1, :size], levels[row : row + 1]).logits[0]
        assert torch.allclose(found[row, : size + 1], alone, atol=1e-5)
    draws = [torch.Generator().manual_seed(5) for _ in range(2)]
    wanted = ours.sample(4, 12, 6, generator=draws[0])
    found = theirs.generate(max_new_tokens=12, steps=6, num_samples=4, generator=draws[1])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert torch.equal(found, wanted.masked_fill(wanted == -1, tokenizer.pad_token_id))
    assert bool((wanted == -1).any())
    assert tokenizer.mask_token_id == theirs.config.mask_token_id == ours.process.graph.mask_token
    theirs.save_pretrained(tmp_path / "again")
    assert same_files(tmp_path / "out", tmp_path / "again")


def test_denoiser_keeps_the_scale_of_its_condition(tmp_path: Path) -> None:
    condition = {"type": "properties", "size": 2, "mean": [10.0, -3.0], "std": [4.0, 0.5]}
    section = {**denoiser(DDIT, condition=condition), "vocab_size": 12, "length": 8}
    config = _parsed(section)
    ours = create_model(config).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(std=0.3)
    ModelFactoryDenoiser(make_hub_config(config, ours, None), ours).save_pretrained(tmp_path)
    theirs = AutoModel.from_pretrained(tmp_path)
    cond = torch.tensor([[11.0, -2.0], [2.0, -4.0], [9.0, -3.0]])
    assert torch.equal(theirs(tokens(count=12), 0.5, cond=cond).logits, ours.denoise(tokens(count=12), 0.5, cond=cond))


def _parsed(section: dict[str, Any]) -> ModelConfig:
    from model.registry import model_entry

    body = {key: value for key, value in section.items() if key not in ("model_type", "name")}
    return ModelConfig(model_type="diffusion", config=model_entry("diffusion").config_type.model_validate(body))


@pytest.mark.parametrize("kind", ["tokens", "features"])
def test_encoder_encodes_as_the_network(kind: str, tmp_path: Path) -> None:
    sizes = {"vocab_size": 20} if kind == "tokens" else {"input_dim": 5}
    config = ModelConfig(model_type="encoder", config=EncoderConfig(encoder=params(attention_type="linear", **sizes)))
    ours = create_model(config).eval()
    ModelFactoryEncoder(make_hub_config(config, ours, None), ours).save_pretrained(tmp_path)
    theirs = AutoModel.from_pretrained(tmp_path)
    if kind == "tokens":
        found = theirs(tokens(), attention_mask=RAGGED)
        assert torch.equal(found.logits, ours(tokens(), RAGGED.bool()))
        return
    features = torch.randn(2, 7, 5)
    assert torch.equal(theirs(inputs_embeds=features).last_hidden_state, ours(features))


@pytest.mark.parametrize("kind", KINDS)
def test_adapted_backbone_goes_back_to_its_class(kind: str, tmp_path: Path, capsys: Any) -> None:
    write_pretrained(kind, tmp_path / "base", vocab_size=259)
    backbone = {"type": "hugging_face", "path": str(tmp_path / "base"), "device": "cpu"}
    run = write_run(tmp_path / "r", denoiser(backbone), tokenizer={"type": "bytes"})
    sharpen(run)
    code, printed = export(run, tmp_path / "out", capsys, "--format", "hf")
    assert code == 0, printed
    auto = AutoModelForMaskedLM if kind == "bert" else AutoModelForCausalLM
    theirs, ours = auto.from_pretrained(tmp_path / "out"), model_of(run)
    assert type(theirs).__module__.startswith("transformers.models.")
    ids = tokens(count=256)
    ids[:, ::2] = theirs.config.mask_token_id
    wanted = ours.denoise(ids, 0.5)[..., :259]
    assert torch.equal(logits_of_backbone(theirs, ids)[..., :259], wanted)
    plain = theirs(ids).logits  # without a mask of attention: config.json makes it bidirectional
    if kind != "bert":
        assert theirs.config.model_factory["logits_shift"] == 1
        plain = torch.cat([plain[:, :1], plain[:, :-1]], 1)
    assert torch.equal(plain[..., :259], wanted)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").mask_token_id == theirs.config.mask_token_id == 259


def test_trained_adapters_are_merged_into_the_class(tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("peft", reason="the extra 'peft' is not installed")
    write_pretrained("llama", tmp_path / "base", vocab_size=259)
    backbone = {"type": "hugging_face", "path": str(tmp_path / "base"), "device": "cpu"}
    data = text_data(tmp_path / "texts", tokenizer={"type": "bytes"})
    settings = {"lora": {"r": 2}, "max_steps": 2, "learning_rate": 0.1}
    before = make_run(tmp_path / "r", denoiser(backbone), data, "diffusion", **settings)
    train(parse_experiment(tmp_path / "r" / "experiment.yml"), tmp_path / "tuned")
    code, printed = export(tmp_path / "tuned", tmp_path / "out", capsys, "--format", "hf")
    assert code == 0, printed
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(theirs) is LlamaForCausalLM
    assert not [name for name in theirs.state_dict() if "lora" in name]
    ids = tokens(count=256)
    logits = theirs(ids).logits
    shifted = torch.cat([logits[:, :1], logits[:, :-1]], 1)[..., :259]
    assert torch.equal(shifted, model_of(tmp_path / "tuned").denoise(ids, 0.5)[..., :259])
    assert not torch.allclose(shifted, model_of(before).denoise(ids, 0.5)[..., :259], atol=1e-2)


@pytest.mark.parametrize(
    ("objective", "parts", "message"),
    [
        ("sedd", {}, "time_conditioning: false"),
        (
            "mdlm",
            {"encoder": {"type": "performer", "d_model": 16, "num_layers": 1, "num_heads": 2}},
            "cross-attentions",
        ),
    ],
    ids=["noise-level", "encoder"],
)
def test_backbone_with_parts_of_ours_is_refused(
    objective: str, parts: dict[str, Any], message: str, tmp_path: Path, capsys: Any
) -> None:
    write_pretrained("gpt2", tmp_path / "base", vocab_size=259)
    backbone = {"type": "hugging_face", "path": str(tmp_path / "base"), "device": "cpu", **parts}
    run = write_run(tmp_path / "r", denoiser(backbone, objective), tokenizer={"type": "bytes"})
    code, printed = export(run, tmp_path / "out", capsys, "--format", "hf")
    assert code == 1
    assert message in printed["errors"][0]["message"]
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_output_that_is_not_empty_is_kept(tmp_path: Path, capsys: Any) -> None:
    run = write_run(tmp_path / "r", decoder())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    code, printed = export(run, tmp_path / "out", capsys, "--format", "hf")
    assert code == 2
    assert "is not empty" in printed["errors"][0]["message"]
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_unfinished_run_is_noted(tmp_path: Path, capsys: Any) -> None:
    run = write_run(tmp_path / "r", decoder())
    assert opened(run).notes == []
    _, printed = export(run, tmp_path / "out", capsys, "--format", "hf")
    assert printed["notes"] == ["the card states no licence: give --license ID"]
