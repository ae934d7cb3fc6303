"""Denoisers that read a source: one encoding a draw, padding, guidance over the source, blocks and pretrained encoders."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from model.denoisers.blocks import BlockReader
from model.denoisers.registry import BACKBONES, register_backbone
from model.discrete.model import DiffusionModel
from model.discrete.types import DiffusionConfig
from model.transformer.inputs import InputError
from model_factory.diffusion.samplers.denoiser import Denoiser
from tests.model.test_block_model import doubled

VOCAB, LENGTH = 7, 8
SIZES = {"d_model": 16, "num_layers": 2, "num_heads": 2, "dropout": 0.0}
OWN: dict[str, Any] = {"type": "performer", **SIZES, "d_model": 12}
KINDS: dict[str, dict[str, Any]] = {
    "ddit": {"type": "ddit"},
    "softmax": {"type": "performer"},
    "linear": {"type": "performer", "attention_type": "linear"},
}
SOURCE = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0], [2, 5, 1, 0]])
MASK = torch.arange(4) < torch.tensor([[4], [2], [3]])
X_T = torch.randint(VOCAB + 1, (3, LENGTH), generator=torch.Generator().manual_seed(0))
SIGMA = torch.ones(3)


def build(backbone: str = "ddit", encoder: dict[str, Any] | None = OWN, **more: Any) -> DiffusionModel:
    """Build a model with random weights, as zeros would hide the effect of inputs."""
    torch.manual_seed(0)
    keys = {**KINDS[backbone], **SIZES, "device": "cpu", "encoder": encoder}
    section = {"objective": {"type": "mdlm"}, "vocab_size": VOCAB, "length": LENGTH, "backbone": keys, **more}
    model = DiffusionModel(DiffusionConfig.model_validate(section)).eval()
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and ".encoder.model." not in name:  # pretrained weights stay
            nn.init.normal_(layer.weight, std=0.3)
    return model


def count_calls(model: DiffusionModel) -> list[int]:
    """Return a list that grows by one with each call of the model's encoder."""
    calls: list[int] = []
    source: Any = model.network.source
    source.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("backbone", KINDS)
def test_padding_of_a_source_changes_nothing(backbone: str) -> None:
    model = build(backbone)
    with torch.no_grad():
        together = model.denoise(X_T, SIGMA, **model.encode(SOURCE, MASK))
        for row, size in enumerate(MASK.sum(1).tolist()):
            alone = model.denoise(X_T[row : row + 1], 1.0, **model.encode(SOURCE[row : row + 1, :size]))
            torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-4)
        other = model.denoise(X_T, SIGMA, **model.encode((SOURCE + 1) % VOCAB, MASK))
    assert not torch.allclose(together, other, atol=1e-3)


@pytest.mark.parametrize("backbone", KINDS)
def test_positions_of_a_row_of_masks_differ_by_the_source_alone(backbone: str) -> None:
    masks = torch.full((3, LENGTH), VOCAB)
    model = build(backbone)
    with torch.no_grad():
        output = model.denoise(masks, SIGMA, **model.encode(SOURCE, MASK))
        silent = build(backbone, None).denoise(masks, SIGMA)
    torch.testing.assert_close(silent, silent[:, :1].expand_as(silent))  # rotary positions of equal tokens
    assert float((output[:, 1:] - output[:, :-1]).abs().amax(-1).min()) > 1e-4


def test_encoder_is_called_once_a_draw_and_a_step() -> None:
    model = build()
    calls = count_calls(model)
    state = model.draw(3, steps=5, sampler="ancestral", context_ids=SOURCE, context_mask=MASK, batch_size=2)
    assert (len(calls), state.network_calls.tolist()) == (1, [5] * 3)
    model(X_T.clamp(max=VOCAB - 1), context_ids=SOURCE, context_mask=MASK)
    assert len(calls) == 2


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("objective", [{"type": "mdlm"}, {"type": "bd3lm", "block_size": 3}])
def test_targets_do_not_depend_on_other_rows(objective: dict[str, Any], batch_size: int) -> None:
    model = build(objective=objective, source_dropout=0.1)
    options: dict[str, Any] = {"context_ids": SOURCE, "context_mask": MASK, "guidance": 2.0, "steps": 6}
    whole, split = (
        model.draw(3, generator=torch.Generator().manual_seed(1), batch_size=size, **options)
        for size in (None, batch_size)
    )
    assert torch.equal(whole.tokens, split.tokens)
    assert torch.equal(whole.network_calls, split.network_calls)


def test_block_prefix_cache_of_two_sources_matches_full_pass() -> None:
    model = build(objective={"type": "bd3lm", "block_size": 3})
    reader = BlockReader(model._predict, model.process.graph.is_masked, 3)
    x_t = torch.randint(VOCAB, (3, LENGTH))
    x_t[:, 4:] = VOCAB
    with torch.no_grad():
        sources = [model.encode(SOURCE, MASK), model.encode((SOURCE + 2) % VOCAB, MASK)]
        for source in (*sources, *sources):
            expected = doubled(model, x_t, x_t, SIGMA.double(), **source)[:, 3:6]
            torch.testing.assert_close(reader(x_t, SIGMA.double(), **source)[:, 3:6], expected)


@pytest.mark.parametrize("way", ["prefix", "encoder"])
def test_guidance_over_the_source_follows_its_formula(way: str) -> None:
    model = build(encoder=OWN if way == "encoder" else None, source_dropout=0.3)
    hidden = torch.arange(LENGTH) < torch.tensor([[3], [2], [4]])
    if way == "encoder":
        context = model.encode(SOURCE, MASK)
        null: Tensor = model.network.source.null.expand(3, 1, -1)  # type: ignore[operator,union-attr]
        given: dict[str, Any] = {**context, "null_context": null}
        without = model.denoise(X_T, SIGMA, context=null)
    else:
        context, given = {}, {"hidden": hidden}
        without = model.denoise(X_T.masked_fill(hidden, VOCAB), SIGMA)
    conditioned = model.denoise(X_T, SIGMA, **context)
    for scale in (0.0, 1.0, 2.5):
        denoiser = Denoiser(model._predict, model.objective.parameterisation, guidance=scale, **given)
        expected = without + scale * (conditioned - without)
        torch.testing.assert_close(denoiser.output(X_T, SIGMA), expected)
        assert denoiser.calls == (2 if scale == 2.5 else 1)
        part = denoiser.select(slice(1, 3))
        torch.testing.assert_close(part.output(X_T[1:], SIGMA[1:]), expected[1:])
        rows = torch.tensor([2, 0])
        torch.testing.assert_close(denoiser.output(X_T[rows], SIGMA[rows], rows), expected[rows])


@pytest.mark.parametrize("objective", [{"type": "mdlm"}, {"type": "bd3lm", "block_size": 3}])
def test_guidance_hides_the_prompt_of_a_draw(objective: dict[str, Any]) -> None:
    model = build(encoder=None, source_dropout=0.3, objective=objective)
    prompt = torch.tensor([[1, 2, 3], [4, 5, 6]])
    sampler = "ancestral" if model.block_size is None else "semi_autoregressive"
    options: dict[str, Any] = {"sampler": sampler, "steps": 3, "guidance": 0.0}
    first, second = (
        model.draw(2, prompt=given, generator=torch.Generator().manual_seed(0), **options).tokens
        for given in (prompt, (prompt + 1) % VOCAB)
    )
    assert torch.equal(first[:, :3], prompt)
    assert torch.equal(first[:, 3:], second[:, 3:])
    calls = model.draw(2, prompt=prompt, **options).network_calls
    assert torch.equal(model.draw(2, prompt=prompt, **{**options, "guidance": 2.0}).network_calls, 2 * calls)


def test_block_prefix_cache_without_the_prompt_matches_full_pass() -> None:
    model = build(encoder=None, objective={"type": "bd3lm", "block_size": 3}, source_dropout=0.3)
    reader = BlockReader(model._predict, model.process.graph.is_masked, 3)
    x_t, hidden = torch.randint(VOCAB, (3, LENGTH)), (torch.arange(LENGTH) < 4).expand(3, -1)
    x_t[:, 4:] = VOCAB
    with torch.no_grad():
        for given in (None, hidden, None, hidden):
            shown = x_t if given is None else x_t.masked_fill(given, VOCAB)
            expected = doubled(model, shown, shown, SIGMA.double())[:, 3:6]
            torch.testing.assert_close(reader(x_t, SIGMA.double(), hidden=given)[:, 3:6], expected)


@pytest.mark.parametrize("objective", [{"type": "mdlm"}, {"type": "bd3lm", "block_size": 3}])
@pytest.mark.parametrize("way", ["prefix", "encoder"])
def test_training_leaves_sources_out(way: str, objective: dict[str, Any]) -> None:
    model = build(encoder=OWN if way == "encoder" else None, source_dropout=0.999999, objective=objective).train()
    ids = X_T.clamp(max=VOCAB - 1)
    response = torch.arange(LENGTH) >= (4 if way == "prefix" else 0)
    given: dict[str, Any] = {"response_mask": response.expand_as(ids), "seed": 3}
    source = {"context_ids": SOURCE, "context_mask": MASK} if way == "encoder" else {}
    other = {"context_ids": (SOURCE + 1) % VOCAB, "context_mask": MASK} if way == "encoder" else {}
    changed = ids if way == "encoder" else torch.where(response, ids, (ids + 1) % VOCAB)
    losses = [model(ids, **given, **source).loss, model(changed, **given, **other).loss]
    torch.testing.assert_close(*losses)
    model.eval()
    assert not torch.allclose(model(ids, **given, **source).loss, model(changed, **given, **other).loss)


def test_messages_of_missing_and_idle_sources() -> None:
    with pytest.raises(InputError, match="needs a source: context_ids"):
        build()(X_T.clamp(max=VOCAB - 1))
    with pytest.raises(InputError, match="the backbone has no encoder"):
        build(encoder=None).encode(SOURCE)
    with pytest.raises(InputError, match="context_mask must be bool"):
        build().encode(SOURCE, MASK[:, :2])
    with pytest.raises(InputError, match="needs context"):
        build().denoise(X_T, SIGMA)
    with pytest.raises(InputError, match=r"guidance is 2\.0"):
        build().draw(3, context_ids=SOURCE, guidance=2.0)


@pytest.mark.parametrize("freeze", [False, True])
def test_pretrained_encoder_is_read_and_trained_or_frozen(freeze: bool, tmp_path: Path) -> None:
    sizes: Any = {"d_model": 12, "d_kv": 6, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    pretrained = transformers.T5Model(transformers.T5Config(vocab_size=VOCAB + 2, **sizes))
    pretrained.save_pretrained(tmp_path)
    model = build(encoder={"type": "hugging_face", "path": str(tmp_path), "freeze": freeze}).train()
    encoder: Any = model.network.source.encoder  # type: ignore[union-attr]
    wanted = pretrained.encoder.eval()(input_ids=SOURCE, attention_mask=MASK.long())[0]
    assert encoder.model.training is not freeze
    encoder.eval()
    torch.testing.assert_close(encoder(SOURCE, MASK)[MASK], wanted[MASK])
    model(X_T.clamp(max=VOCAB - 1), context_ids=SOURCE, context_mask=MASK).loss.backward()
    assert all((parameter.grad is None) == freeze for parameter in encoder.model.parameters())
    with pytest.raises(ValueError, match="has 9 tokens, and the data set's tokenizer 30"):
        build(encoder={"type": "hugging_face", "path": str(tmp_path)}, vocab_size=30)


def test_encoder_key_of_a_custom_backbone_is_its_own() -> None:
    class Plain(nn.Module):
        def forward(self, x_t: Tensor, sigma: Tensor) -> Tensor:
            return torch.zeros(*x_t.shape, VOCAB + 1) * sigma[:, None, None]

    register_backbone("with_encoder")(lambda config, vocab_size: Plain())
    try:
        section = {"objective": {"type": "mdlm"}, "backbone": {"type": "with_encoder", "encoder": {"layers": 3}}}
        model = DiffusionModel(DiffusionConfig.model_validate({**section, "vocab_size": VOCAB, "length": LENGTH}))
        assert not model.has_encoder
        assert model.draw(2).tokens.shape == (2, LENGTH)
    finally:
        BACKBONES._entries.pop("with_encoder")
