"""Conversion of performer-pytorch checkpoints: equal outputs, except for its documented errors."""

from functools import partial

import pytest
import torch

from model.checkpoint import CheckpointError
from model.checkpoints.performer_pytorch import load_performer_pytorch
from model.model_factory import load_model
from model.model_types import DecoderConfig, EncoderConfig, EncoderDecoderConfig, ModelConfig
from tests.model import tiny

pytestmark = pytest.mark.filterwarnings("ignore")
theirs = pytest.importorskip("performer_pytorch.performer_pytorch")
enc_dec = pytest.importorskip("performer_pytorch.performer_enc_dec")

LENGTH, VOCAB = 40, tiny.VOCAB
SHAPE = {"dim": 16, "depth": 2, "heads": 2, "dim_head": 8, "ff_mult": 2, "nb_features": 20}
LM = {**SHAPE, "num_tokens": VOCAB, "max_seq_len": LENGTH}
OURS = {"nb_features": 20}
OURS_LM = {**OURS, "vocab_size": VOCAB, "max_length": LENGTH, "tie_embeddings": False}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def exact(monkeypatch):
    """Set every eps of performer-pytorch to 0."""
    monkeypatch.setattr(theirs, "softmax_kernel", partial(theirs.softmax_kernel, eps=0.0))
    causal = partial(theirs.causal_linear_attention_noncuda, eps=0.0)
    monkeypatch.setattr(theirs, "causal_linear_attention_noncuda", causal)


def config_of(role, **changes):
    causal = changes.pop("causal", role == "decoder")
    params = tiny.params(attention_type="causal_linear" if causal else "linear", **{**OURS, **changes})
    build = {"encoder": EncoderConfig, "decoder": DecoderConfig}[role]
    return ModelConfig(model_type=role, config=build(params=params))


def with_random_vectors(network):
    """Set evaluation mode and randomise every vector (norms, biases) and gain."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() < 2:
                parameter.add_(0.3 * torch.randn(parameter.shape))
            if "token_emb" in name:
                parameter.mul_(0.5)
    return network.eval()


STACKS = [
    ({}, {}),
    ({"use_scalenorm": True}, {"use_scalenorm": True}),
    ({"use_rezero": True}, {"use_rezero": True}),
    ({"ff_glu": True, "qkv_bias": False}, {"activation": "geglu"}),
    ({"generalized_attention": True}, {"feature_map": "relu"}),
    ({"attn_out_bias": False, "nb_features": None}, {"nb_features": None}),
]


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(("given", "changes"), STACKS, ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_performer(given, changes, causal):
    network = with_random_vectors(theirs.Performer(**{**SHAPE, "causal": causal, **given}))
    model = load_performer_pytorch(
        network.state_dict(), config_of("encoder", causal=causal, position="none", **changes)
    )
    x = torch.randn(2, LENGTH, 16)
    assert tiny.gap(model.eval()(x), network(x)) < 1e-5
    if causal:
        decoder = load_performer_pytorch(network.state_dict(), config_of("decoder", position="none", **changes))
        assert torch.equal(decoder.eval()(x), model(x))


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("causal", [False, True])
def test_performer_with_positions_at_the_call(causal):
    network = with_random_vectors(theirs.Performer(**SHAPE, causal=causal))
    model = load_performer_pytorch(network.state_dict(), config_of("encoder", causal=causal))
    x = torch.randn(2, LENGTH, 16)
    assert tiny.gap(model.eval()(x), network(x, pos_emb=theirs.FixedPositionalEmbedding(8, LENGTH)(x))) < 1e-5


LANGUAGE_MODELS = [
    ({}, {}),
    ({"tie_embed": True, "qkv_bias": True, "attn_out_bias": True}, {"tie_embeddings": True}),
    ({"rotary_position_emb": False, "use_scalenorm": True}, {"position": "absolute", "use_scalenorm": True}),
    ({"use_rezero": True, "ff_glu": True}, {"use_rezero": True, "activation": "geglu"}),
    (
        {"rotary_position_emb": False, "axial_position_emb": True, "axial_position_shape": (7, 6)},
        {"position": "absolute"},
    ),
]


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(("given", "changes"), LANGUAGE_MODELS, ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_language_model(given, changes, causal, tmp_path):
    network = with_random_vectors(theirs.PerformerLM(**LM, causal=causal, **given))
    config = config_of("encoder", causal=causal, **{**OURS_LM, **changes})
    model = load_performer_pytorch(network.state_dict(), config).eval()
    tokens = torch.randint(VOCAB, (2, LENGTH))
    assert tiny.gap(model(tokens), network(tokens)) < 1e-5
    assert tiny.gap(model.hidden(tokens), network(tokens, return_encodings=True)) < 1e-5
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path).eval()
    assert again.config == config
    assert torch.equal(again(tokens), model(tokens))


@pytest.mark.usefixtures("exact")
def test_language_model_as_a_decoder_generates():
    network = with_random_vectors(theirs.PerformerLM(**LM, causal=True))
    wrapped = enc_dec.AutoregressiveWrapper(network)
    model = load_performer_pytorch(wrapped.state_dict(), config_of("decoder", **OURS_LM)).eval()
    tokens = torch.randint(VOCAB, (2, 5))
    out = model.generate(tokens, 20, temperature=0.0)
    for place in range(5, 25):
        assert torch.equal(network(out[:, :place])[:, -1].argmax(-1), out[:, place])


@pytest.mark.usefixtures("exact")
def test_cross_attention_alone():
    network = with_random_vectors(theirs.PerformerLM(**LM, causal=True, cross_attend=True))
    config = config_of("decoder", use_cross_attention=True, **OURS_LM)
    model = load_performer_pytorch(network.state_dict(), config).eval()
    tokens, context = torch.randint(VOCAB, (2, LENGTH)), torch.randn(2, 13, 16)
    assert tiny.gap(model(tokens, context), network(tokens, context=context)) < 1e-5


def encoder_decoder(**given):
    sides = {
        f"{side}_{key}": value for side in ("enc", "dec") for key, value in {**LM, **given}.items() if key != "dim"
    }
    return with_random_vectors(enc_dec.PerformerEncDec(dim=16, **sides))


def encoder_decoder_config(**changes):
    encoder, decoder = (
        tiny.params(attention_type=name, **{**OURS_LM, **changes}) for name in ("linear", "causal_linear")
    )
    return ModelConfig(
        model_type="encoder_decoder", config=EncoderDecoderConfig(encoder_params=encoder, decoder_params=decoder)
    )


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(
    ("given", "changes"),
    [({}, {}), ({"use_rezero": True, "tie_embed": True}, {"use_rezero": True, "tie_embeddings": True})],
    ids=str,
)
def test_encoder_decoder(given, changes, tmp_path):
    network = encoder_decoder(**given)
    model = load_performer_pytorch(network.state_dict(), encoder_decoder_config(**changes)).eval()
    source, target = torch.randint(VOCAB, (2, 30)), torch.randint(VOCAB, (2, LENGTH))
    encodings = network.enc(source, return_encodings=True)
    assert tiny.gap(model.encode(source), encodings) < 1e-5
    assert tiny.gap(model(source, target), network.dec.net(target, context=encodings)) < 1e-5
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path).eval()
    assert torch.equal(again(source, target), model(source, target))
    out = again.generate(source, target[:, :4], 6, temperature=0.0)
    for place in range(4, 10):
        assert torch.equal(again(source, out[:, :place])[:, -1].argmax(-1), out[:, place])


@pytest.mark.parametrize("causal", [False, True])
def test_performer_eps_explains_differences(causal):
    network = with_random_vectors(theirs.PerformerLM(**LM, causal=causal))
    model = load_performer_pytorch(network.state_dict(), config_of("encoder", causal=causal, **OURS_LM)).eval()
    tokens = torch.randint(VOCAB, (2, LENGTH))
    assert 1e-5 < tiny.gap(model(tokens), network(tokens)) < 1e-2


def test_performer_checkpoint_trains_and_continues_counting():
    network = theirs.PerformerLM(**LM, feature_redraw_interval=3).train()
    tokens = torch.randint(VOCAB, (2, 8))
    network(tokens), network(tokens)
    model = load_performer_pytorch(network.state_dict(), config_of("encoder", feature_redraw_interval=3, **OURS_LM))
    projection = model.layers[0].self_attention.sublayer.core.features.projection_matrix
    before = projection.clone()
    model(tokens).logsumexp(-1).sum().backward()
    assert torch.equal(projection, before)
    model(tokens)
    assert not torch.equal(projection, before)
    assert "input.position" not in dict(model.named_parameters())  # their sinusoids are not trained
    assert all(parameter.grad is not None for parameter in model.parameters())


MISFITS = [
    ({}, {"num_layers": 3}, "num_layers is 3, and the checkpoint has 2 (performer.net.layers.)"),
    ({}, {"num_heads": 4}, "num_heads is 4, and the checkpoint has 2"),
    ({}, {"d_ff": 4}, "d_ff is 4, and the checkpoint has 2 (performer.net.layers.0.1.fn.fn.w2.weight)"),
    ({}, {"nb_features": None}, "nb_features is 16, and the checkpoint has 20"),
    ({}, {"activation": "geglu"}, "activation is GEGLU, and the checkpoint has GELU"),
    ({}, {"use_rezero": True}, "use_rezero is true, and the checkpoint has false"),
    ({"use_scalenorm": True}, {}, "use_scalenorm is false, and the checkpoint has true (performer.net.layers.0.0.g)"),
    ({}, {"vocab_size": 12}, "vocab_size is 12, and the checkpoint has 11 (token_emb.weight)"),
    ({}, {"tie_embeddings": True}, "tie_embeddings is true, and the checkpoint has false (to_out.weight)"),
    ({}, {"position": "none"}, "position is none, and the checkpoint's are rotary"),  # language: ok
    ({}, {"max_length": 41}, "max_length is 41, and the checkpoint's positions are 40"),
    ({}, {"max_length": None}, "max_length is not set, and the checkpoint's positions are 40"),
    ({}, {"qk_norm": True}, "qk_norm is true, and performer-pytorch has none"),
    ({}, {"num_kv_heads": 1}, "num_kv_heads is 1, and performer-pytorch does not group heads"),
    ({}, {"feature_map": "elu", "nb_features": None}, "feature_map is elu, and performer-pytorch has favor+, or relu"),
    ({}, {"num_layers": 1, "d_ff": 3}, "d_ff is 3"),
    ({"dim_head": 4}, {}, "head width d_model / num_heads is 8, and the checkpoint has 4"),
    (
        {"local_attn_heads": 1},
        {},
        "local attention (performer.net.layers.0.0.fn.local_attn.rel_pos.inv_freq) is not supported",
    ),
    ({"shift_tokens": True}, {}, "shifted tokens (performer.net.layers.0.0.fn.fn.to_q.weight) are not supported"),
    ({"reversible": True}, {}, "a reversible Performer, which is not supported"),
]


@pytest.mark.parametrize(("given", "changes", "message"), MISFITS, ids=[message for *_, message in MISFITS])
def test_performer_checkpoint_mismatches_are_listed(given, changes, message):
    network = theirs.PerformerLM(**{**LM, **given})
    with pytest.raises(CheckpointError) as caught:
        load_performer_pytorch(network.state_dict(), config_of("encoder", **{**OURS_LM, **changes}))
    assert message in str(caught.value)


def test_performer_checkpoint_unsupported_state_dicts():
    state = theirs.PerformerLM(**LM).state_dict()
    softmax = ModelConfig(
        model_type="decoder", config=DecoderConfig(params=tiny.params(**{**OURS_LM, "nb_features": None}))
    )
    bare = theirs.Performer(**SHAPE).state_dict()
    short = {key: tensor for key, tensor in state.items() if "1.0.fn.to_v" not in key}
    for given, config, message in [
        (state, softmax, "attention_type is softmax, and performer-pytorch has causal_linear alone"),
        (state, encoder_decoder_config(), "needs model_type encoder or decoder, and the config's is encoder_decoder"),
        (encoder_decoder().state_dict(), config_of("encoder", **OURS_LM), "needs model_type encoder_decoder"),
        (
            bare,
            config_of("encoder", position="absolute", max_length=9),
            "a bare Performer has no positions; use rotary or none",
        ),
        (bare, config_of("encoder", vocab_size=VOCAB), "vocab_size is 11, and the checkpoint has not set"),
        (short, config_of("encoder", **OURS_LM), "missing: layers.1.self_attention.sublayer.to_v.weight"),
        (
            {**state, "odd": torch.zeros(1)},
            config_of("encoder", **OURS_LM),
            "has tensors without a counterpart in the model: odd",
        ),
        ({"a": torch.zeros(1)}, config_of("encoder"), "this is not a state dict of performer-pytorch's Performer"),
        (encoder_decoder().state_dict(), encoder_decoder_config(d_ff=3), "encoder.d_ff is 3, and"),
    ]:
        with pytest.raises(CheckpointError) as caught:
            load_performer_pytorch(given, config)
        assert message in str(caught.value)
