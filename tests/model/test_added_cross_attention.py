"""Pretrained denoisers with an encoder: unchanged at first, then they read the source, each row its own."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from model.denoisers.pretrained import PretrainedError
from model.discrete.model import DiffusionModel
from model.model_factory import load_model
from model.transformer.inputs import InputError
from model_factory.experiment.training_types import LoraConfig
from model_factory.training.lora import add_adapters, merge_adapters
from tests.model.test_hugging_face_denoiser import CAUSAL, LONG, MASKED, SIZES, TOKENS, build, pretrained, tokens
from tests.model.test_source_encoder import MASK, SOURCE, count_calls

OWN: dict[str, Any] = {"d_model": 12, "num_layers": 1, "num_heads": 2, "dropout": 0.0}
MASKS = torch.full((3, LONG), TOKENS)
LEVEL = torch.ones(3)


def reading(
    folder: Path, encoder: dict[str, Any] | None = None, *, trained: bool = True, more: Any = (), **parts: Any
) -> DiffusionModel:
    """Build a model with an encoder; a trained one reads the source, which the weights of a new one hide."""
    torch.manual_seed(0)
    model = build(folder, {"encoder": encoder or OWN, "device": "cpu", **dict(more)}, **parts)
    network: Any = model.network
    for layer in network.cross_attention.layers if trained else ():
        nn.init.normal_(layer.to_out.weight, std=0.3)
    return model


def begun(network: Any, ids: Tensor, **options: Any) -> Tensor:
    """Return the logits of a network without an encoder, of a causal one after its begin token."""
    if not network.shifted:
        return network(ids, **options)  # type: ignore[no-any-return]
    return network(nn.functional.pad(ids, (1, 0), value=1), **options)[:, 1:]  # type: ignore[no-any-return]


@pytest.mark.parametrize("family", [*MASKED, *CAUSAL])
def test_added_cross_attention_starts_at_zero_then_reads(family: str, tmp_path: Path) -> None:
    pretrained(family, tmp_path)
    model = reading(tmp_path, trained=False)
    plain: Any = build(tmp_path).network
    with torch.no_grad():
        output = model.denoise(tokens(3), LEVEL, **model.encode(SOURCE, MASK))
    assert torch.equal(output, begun(plain, tokens(3)))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model.train()(tokens(3), context_ids=SOURCE, context_mask=MASK).loss.backward()
    optimizer.step()
    model.eval()
    with torch.no_grad():
        first, second = (model.denoise(MASKS, LEVEL, **model.encode(ids, MASK)) for ids in (SOURCE, SOURCE + 7))
    assert ((first - second).abs().amax((1, 2)) > 1e-6).all()


@pytest.mark.parametrize("family", ["Bert", "GPT2", "Llama"])
def test_rows_of_pretrained_denoisers_read_their_own_source(family: str, tmp_path: Path) -> None:
    pretrained(family, tmp_path)
    model = reading(tmp_path)
    real = torch.arange(LONG) < torch.tensor([[LONG], [5], [6]])
    with torch.no_grad():
        together = model.denoise(MASKS, LEVEL, real, **model.encode(SOURCE, MASK))
        for row, size in enumerate(MASK.sum(1).tolist()):
            width = int(real[row].sum())
            context = model.encode(SOURCE[row : row + 1, :size])
            alone = model.denoise(MASKS[row : row + 1, :width], 1.0, **context)
            torch.testing.assert_close(alone[0], together[row, :width], rtol=1e-4, atol=1e-4)
        other = model.denoise(MASKS, LEVEL, real, **model.encode(SOURCE + 7, MASK))
    moved = (together - other).abs().amax(-1)
    assert (moved[real] > 1e-4).all()
    assert float((together[:, 1:] - together[:, :-1]).abs().amax(-1)[real[:, 1:]].min()) > 1e-4  # also the first two


def test_pretrained_denoiser_reads_a_source_once_a_draw_and_can_leave_it_out(tmp_path: Path) -> None:
    pretrained("GPT2", tmp_path)
    model = reading(tmp_path, source_dropout=0.2)
    calls, options = (
        count_calls(model),
        {"context_ids": SOURCE, "context_mask": MASK, "steps": 4, "sampler": "ancestral"},
    )
    state = model.draw(3, guidance=2.0, generator=torch.Generator().manual_seed(0), **options)
    assert (len(calls), state.network_calls.tolist()) == (1, [8] * 3)
    pair = model.draw(3, guidance=2.0, generator=torch.Generator().manual_seed(0), batch_size=2, **options)
    assert torch.equal(pair.tokens, state.tokens)
    model.train()(tokens(3), context_ids=SOURCE, context_mask=MASK, seed=1).loss.backward()
    assert model.network.source.null.grad is not None  # type: ignore[union-attr]


@pytest.mark.parametrize("family", ["Bert", "Llama"])
def test_pretrained_denoiser_with_encoder_is_told_levels_and_reloads(family: str, tmp_path: Path) -> None:
    pretrained(family, tmp_path / "pretrained")
    model = reading(tmp_path / "pretrained", process="uniform", objective="udlm")
    network: Any = model.network
    nn.init.normal_(network.told.noise.net[-1].weight, std=0.3)
    context = model.encode(SOURCE, MASK)
    with torch.no_grad():
        rows = model.denoise(tokens(3), LEVEL, **context)
        levels = torch.where(torch.arange(LONG) < 2, 0.0, 1.0).expand(3, -1)
        assert not torch.allclose(model.denoise(tokens(3), levels, **context), rows, atol=1e-4)
    model.save_pretrained(tmp_path / "saved")  # type: ignore[operator]
    again: Any = load_model(tmp_path / "saved").eval()
    with torch.no_grad():
        assert torch.equal(again.denoise(tokens(3), LEVEL, **again.encode(SOURCE, MASK)), rows)


@pytest.mark.parametrize("encoder", ["new", "pretrained", "frozen"])
def test_adapters_leave_cross_attention_and_new_encoders_trainable(encoder: str, tmp_path: Path) -> None:
    pretrained("Llama", tmp_path / "llama")
    pretrained("Bert", tmp_path / "bert")
    given = {"type": "hugging_face", "path": str(tmp_path / "bert"), "freeze": encoder == "frozen"}
    model = reading(tmp_path / "llama", None if encoder == "new" else given, source_dropout=0.2)
    with torch.no_grad():
        before = model.denoise(MASKS, LEVEL, **model.encode(SOURCE, MASK))
    add_adapters(model, LoraConfig(r=2))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, _ in model.named_parameters():
        part = name.partition("network.")[2].partition(".")[0]
        inner = ".source.encoder." in name
        if part == "cross_attention" or (part == "source" and (not inner or encoder == "new")):
            assert name in trained
        elif part == "source":
            assert (name in trained) == ("lora_" in name and encoder == "pretrained"), name
        else:
            assert (name in trained) == ("lora_" in name or "mask_embedding" in name), name
    assert not any("lora_" in name for name in trained if ".cross_attention." in name)
    merge_adapters(model)
    with torch.no_grad():
        torch.testing.assert_close(model.denoise(MASKS, LEVEL, **model.encode(SOURCE, MASK)), before)


def test_both_copies_of_a_block_read_the_source_from_the_same_positions(tmp_path: Path) -> None:
    pretrained("Llama", tmp_path)
    model = reading(tmp_path, more={"shift": False}, objective="bd3lm")
    context = model.encode(SOURCE, MASK)
    with torch.no_grad():
        output = model.denoise(tokens(3).repeat(1, 2), LEVEL, **context)
        torch.testing.assert_close(output[:, :3], output[:, LONG : LONG + 3])  # the first block sees itself alone
        whole, split = (
            model.draw(
                3, generator=torch.Generator().manual_seed(0), batch_size=size, context_ids=SOURCE, context_mask=MASK
            )
            for size in (None, 2)
        )
    assert torch.equal(whole.tokens, split.tokens)


def test_cross_attention_is_float32_beside_bfloat16_weights(tmp_path: Path) -> None:
    pretrained("Bert", tmp_path)
    model = reading(tmp_path, more={"dtype": "bfloat16"})
    network: Any = model.network
    assert {layer.to_out.weight.dtype for layer in network.cross_attention.layers} == {torch.float32}
    with torch.no_grad():
        first, second = (model.denoise(MASKS, LEVEL, **model.encode(ids, MASK)) for ids in (SOURCE, SOURCE + 7))
    assert not torch.equal(first, second)


def test_pretrained_denoiser_with_encoder_refuses_documents_and_missing_sources(tmp_path: Path) -> None:
    pretrained("Llama", tmp_path)
    model = reading(tmp_path)
    context = model.encode(SOURCE, MASK)
    with pytest.raises(PretrainedError, match="reads one source a row, and packed rows have several documents"):
        model.denoise(MASKS, LEVEL, documents=torch.ones(3, LONG, dtype=torch.long), **context)
    with pytest.raises(InputError, match="needs context"):
        model.denoise(MASKS, LEVEL)
    with pytest.raises(InputError, match="has no cross-attention"):
        build(tmp_path).denoise(MASKS, LEVEL, **context)
    with pytest.raises(PretrainedError, match="has 31 positions after its begin token, and sequences have 32 tokens"):
        reading(tmp_path, length=32)


@pytest.mark.parametrize(
    ("shared", "words"),
    [
        (1, "no list of modules has the 2 layers of its config"),
        (2, r"not layers of one residual stream \(they are called in the order \[0, 1, 0, 1\]\)"),
    ],
)
def test_cross_attention_after_shared_layers_is_refused(shared: int, words: str, tmp_path: Path) -> None:
    config = transformers.AlbertConfig(**SIZES, embedding_size=16, inner_group_num=shared)
    transformers.AlbertForMaskedLM(config).save_pretrained(tmp_path)
    assert build(tmp_path).network is not None
    with pytest.raises(PretrainedError, match=words):
        reading(tmp_path)
