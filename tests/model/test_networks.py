"""Encoder, decoder and encoder-decoder over a grid of options: padding, causality, gradients."""

import pytest
import torch

from model.activations import ActivationFunctions
from tests.model import tiny

NORMS = ["layernorm", "scalenorm", "rezero"]
TYPES = ["softmax", "linear", "causal_linear"]


def grid(types):
    cells = [(t, a, n) for t in types for a in ActivationFunctions for n in NORMS]
    return pytest.mark.parametrize(("attention_type", "activation", "norm"), cells)


PADDED, LENGTHS = 70, [70, 41]  # beyond one chunk of the causal core


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def other_padding(x, mask):
    return torch.where(mask.unsqueeze(-1), x, 100 * torch.randn_like(x))


@grid(TYPES)
@pytest.mark.parametrize("factor", [1.0, 4.0])
def test_encoder_ignores_padding(attention_type, activation, norm, factor):
    model = tiny.encoder(attention_type=attention_type, activation=activation, **tiny.norm_of(norm))
    model = tiny.sharpened(model, factor)
    x, mask = torch.randn(2, PADDED, 16), tiny.lengths_mask(LENGTHS, PADDED)
    out = model(x, mask)
    alone = model(x[1:, :41])
    assert tiny.gap(out[1:, :41], alone) <= 1e-5
    assert tiny.gap(model(other_padding(x, mask), mask)[mask], out[mask]) <= 1e-5
    assert out.isfinite().all()


@grid(["softmax", "causal_linear"])
@pytest.mark.parametrize("factor", [1.0, 4.0])
def test_decoder_is_causal(attention_type, activation, norm, factor):
    model = tiny.decoder(attention_type=attention_type, activation=activation, **tiny.norm_of(norm))
    model = tiny.sharpened(model, factor)
    x = torch.randn(2, PADDED, 16)
    changed = x.clone()
    changed[:, 50:] = 10 * torch.randn(2, PADDED - 50, 16)
    out, after = model(x), model(changed)
    assert tiny.gap(after[:, :50], out[:, :50]) <= 1e-6
    assert tiny.gap(after[:, 50:], out[:, 50:]) > 1e-2


@pytest.mark.parametrize("attention_type", ["softmax", "causal_linear"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("factor", [1.0, 4.0])
def test_encoder_decoder_ignores_padding(attention_type, norm, factor):
    model = tiny.seq2seq(attention_type=attention_type, vocab_size=tiny.VOCAB, **tiny.norm_of(norm))
    model = tiny.sharpened(model, factor)
    source, target = torch.randint(tiny.VOCAB, (2, 30)), torch.randint(tiny.VOCAB, (2, 20))
    source_mask, target_mask = tiny.lengths_mask([30, 17], 30), tiny.lengths_mask([20, 9], 20)
    out = model(source, target, source_mask, target_mask)
    assert out.shape == (2, 20, tiny.VOCAB)
    assert tiny.gap(out[1:, :9], model(source[1:, :17], target[1:, :9])) <= 1e-5
    source, target = source.masked_fill(~source_mask, -100), target.masked_fill(~target_mask, 999)
    assert torch.equal(model(source, target, source_mask, target_mask), out)  # ids of the padding are ignored


@pytest.mark.parametrize("attention_type", TYPES)
@pytest.mark.parametrize("position", ["rotary", "absolute", "none"])
def test_all_padding_sequence_is_finite(attention_type, position):
    model = tiny.encoder(attention_type=attention_type, position=position, max_length=20, qk_norm=True)
    x = torch.randn(2, 20, 16)
    x[1] = torch.nan
    out = model(x, tiny.lengths_mask([20, 0], 20))
    assert out.isfinite().all()
    out[0].sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def every_gradient(model, *inputs):
    model.train()
    out = model(*inputs)
    (out * torch.randn_like(out)).sum().backward()
    return [name for name, p in model.named_parameters() if p.grad is None or not p.grad.norm() > 0]


@grid(TYPES)
def test_gradients_reach_every_parameter(attention_type, activation, norm):
    stack = {"attention_type": attention_type, "activation": activation, **tiny.norm_of(norm)}
    shape = {**stack, "vocab_size": tiny.VOCAB, "position": "absolute", "max_length": 12, "qk_norm": True}
    ids = torch.randint(tiny.VOCAB, (2, 12))
    assert not every_gradient(tiny.encoder(**shape), ids)
    assert not every_gradient(tiny.encoder(**stack), torch.randn(2, 12, 16))
    if attention_type != "linear":
        assert not every_gradient(tiny.decoder(**shape, num_kv_heads=1, tie_embeddings=False), ids)
        assert not every_gradient(tiny.seq2seq(**shape), ids, ids)


def test_rezero_has_gradients_at_initialisation():
    torch.manual_seed(0)
    model = tiny.PerformerEncoder(tiny.params(use_rezero=True))
    assert not every_gradient(model, torch.randn(2, 12, 16))


@pytest.mark.parametrize("attention_type", TYPES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("norm", NORMS)
def test_half_precision_is_finite(attention_type, dtype, norm):
    model = tiny.encoder(attention_type=attention_type, qk_norm=True, **tiny.norm_of(norm))
    x, mask = torch.randn(2, PADDED, 16), tiny.lengths_mask([70, 0], PADDED)
    wanted = model(x, mask)
    out = model.to(dtype)(x.to(dtype), mask)
    assert out.isfinite().all()
    assert tiny.gap(out[0], wanted[0]) < (0.02 if dtype == torch.float16 else 0.1)
    out[0].sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_use_causal_mask_false_needs_softmax():
    x = torch.randn(1, 9, 16)
    changed = x.clone()
    changed[:, -1] = torch.randn(16)
    model = tiny.decoder()
    assert tiny.gap(model(changed, use_causal_mask=False)[:, :-1], model(x, use_causal_mask=False)[:, :-1]) > 1e-4
    with pytest.raises(ValueError, match="always causal; use softmax"):
        tiny.decoder(attention_type="causal_linear")(x, use_causal_mask=False)


def test_causal_linear_encoder_streams():
    model = tiny.encoder(attention_type="causal_linear")
    x = torch.randn(1, PADDED, 16)
    assert tiny.gap(model(x[:, :40]), model(x)[:, :40]) <= 1e-6


def test_decoder_depends_on_the_context():
    model = tiny.seq2seq(attention_type="causal_linear", vocab_size=tiny.VOCAB)
    ids = torch.randint(tiny.VOCAB, (1, 8))
    assert tiny.gap(model(ids.flip(1), ids), model(ids, ids)) > 1e-3


def test_position_none_is_permutation_equivariant():
    x = torch.randn(1, 9, 16)
    for position, moves in [("rotary", True), ("absolute", True), ("none", False)]:
        model = tiny.encoder(position=position, max_length=9)
        turned = model(x.flip(1)).flip(1)
        assert (tiny.gap(turned, model(x)) > 1e-3) == moves


def test_grouped_query_attention_shares_keys_and_values():
    model = tiny.encoder(num_heads=4, num_kv_heads=2, attention_type="linear")
    assert model.layers[0].self_attention.sublayer.to_k.weight.shape == (8, 16)
    assert model(torch.randn(2, 5, 16)).shape == (2, 5, 16)


def test_input_and_head_by_role():
    ids, mel = torch.randint(tiny.VOCAB, (2, 7)), torch.randn(2, 7, 5)
    tied, untied = tiny.encoder(vocab_size=tiny.VOCAB), tiny.encoder(vocab_size=tiny.VOCAB, tie_embeddings=False)
    speech = tiny.encoder(vocab_size=tiny.VOCAB, input_dim=5)
    assert tied(ids).shape == untied(ids).shape == speech(mel).shape == (2, 7, tiny.VOCAB)
    assert tied.hidden(ids).shape == (2, 7, 16)
    assert "head.weight" in untied.state_dict()
    assert "head.weight" not in tied.state_dict()
    assert "input.embedding.weight" not in speech.state_dict()
    both = tiny.seq2seq(vocab_size=tiny.VOCAB, tie_embeddings=False)
    assert both.encoder.head is None
    assert both.encode(ids).shape == (2, 7, 16)


def test_state_dict_names_and_no_duplicates():
    model = tiny.seq2seq(attention_type="causal_linear", vocab_size=tiny.VOCAB, use_scalenorm=True)
    state = model.state_dict()
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)
    own = len(list(model.parameters())) + len(list(model.buffers()))
    assert len(state) == own
    for part in ("to_q", "to_k", "to_v", "to_out", "projection_matrix"):
        assert any(part in name for name in state)
