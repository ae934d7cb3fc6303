"""Decoding of latents: equal with and without KV cache, the kv prefix against explicit attention, independent rows."""

import pytest
import torch

from model.latent.connectors.hugging_face import ConnectorError
from model.latent.part_types import HuggingFaceDecoderConfig, HuggingFaceEncoderConfig
from model.latent.registry import LATENT_DECODERS, LATENT_ENCODERS
from model.transformer.inputs import InputError
from tests.model.latent_parts import LATENT, VOCAB, hugging_face_decoder, performer_decoder, spread

ROUTES = [
    ["embedding"],
    ["memory"],
    ["embedding", "memory"],
    ["cross_attention"],
    ["soft_prompt"],
    ["memory", "soft_prompt"],
]
NEW = 12


def decoders(routes, slots):
    yield "gpt2", hugging_face_decoder("gpt2", routes, slots)
    if "cross_attention" not in routes:
        yield "llama", hugging_face_decoder("llama", routes, slots)
    yield "softmax", performer_decoder(routes, slots, num_kv_heads=1)
    yield "absolute", performer_decoder(routes, slots, position="absolute", max_length=64)
    yield "causal_linear", performer_decoder(routes, slots, attention_type="causal_linear", feature_map="elu")


def ragged():
    torch.manual_seed(1)
    ids = torch.randint(3, VOCAB, (3, 6))
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]).bool()
    return ids, mask, torch.randn(3, LATENT)


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("routes", ROUTES, ids="+".join)
def test_latent_decoding_is_equal_with_kv_cache(routes, slots):
    ids, mask, latent = ragged()
    for name, decoder in decoders(routes, slots):
        cached = decoder.generate(latent, ids, NEW, mask=mask)
        assert torch.equal(cached, decoder.generate(latent, ids, NEW, mask=mask, use_cache=False)), name
        for row in range(3):  # each row equals the row decoded alone
            alone = decoder.generate(latent[row : row + 1], ids[row : row + 1][:, mask[row]], NEW)
            assert torch.equal(cached[row, -NEW:], alone[0, -NEW:]), name


@pytest.mark.parametrize("routes", [["embedding", "memory"], ["cross_attention"]], ids="+".join)
def test_latent_beam_search_is_equal_with_kv_cache(routes):
    ids, mask, latent = ragged()
    for name, decoder in decoders(routes, 1):
        found = [decoder.generate(latent, ids, 5, mask=mask, num_beams=3, use_cache=use) for use in (True, False)]
        assert torch.equal(*found), name


def test_latent_beam_search_finds_the_likeliest_text():
    decoder = performer_decoder(["embedding", "memory"], 1)
    latent, first = torch.randn(1, LATENT), torch.tensor([[1]])
    best = decoder.generate(latent, first, 2, num_beams=VOCAB)
    pairs = torch.cartesian_prod(torch.arange(VOCAB), torch.arange(VOCAB))
    texts = torch.cat([first.expand(len(pairs), 1), pairs], 1)
    losses = decoder(texts, latent.expand(len(pairs), -1), labels=texts)[0]
    assert torch.equal(texts[losses.argmin()], best[0])


def test_latent_kv_prefix_matches_explicit_attention():
    """Compare with explicit softmax attention, for one layer of our decoder without positions."""
    decoder = performer_decoder(["memory"], 2, num_layers=1, position="none").double()
    ids, latent = torch.randint(3, VOCAB, (2, 5)), torch.randn(2, LATENT, dtype=torch.float64)
    seen = {}
    attention = decoder.transformer.backbone.layers[0].self_attention.sublayer
    attention.register_forward_hook(lambda module, given, output: seen.update(x=given[0], out=output))
    decoder(ids, latent)
    x = seen["x"][:, 2:]
    heads = lambda part: part.view(2, -1, 2, 8).transpose(1, 2)  # noqa: E731
    slots = decoder.transformer.injection(latent).memory[0]
    q, k, v = (heads(layer(x)) for layer in (attention.to_q, attention.to_k, attention.to_v))
    k, v = torch.cat([slots, k], 2), torch.cat([slots, v], 2)
    scores = q @ k.transpose(2, 3) / 8**0.5
    allowed = torch.ones(5, 7, dtype=torch.bool).tril(2)
    wanted = attention.to_out((scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(seen["out"][:, 2:], wanted)


@pytest.mark.parametrize("routes", ROUTES, ids="+".join)
def test_latent_decoder_ignores_other_rows_and_padding(routes):
    ids, mask, latent = ragged()
    ids, mask = ids[:, :5], torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]).bool()
    for name, decoder in decoders(routes, 2):
        before = decoder(ids, latent, labels=ids, attention_mask=mask)[0]
        other, changed = latent.clone(), ids.clone()
        other[1] += 1.0
        changed[1] = 3
        changed[0, 3:] = 7  # padding
        after = decoder(changed, other, labels=changed, attention_mask=mask)[0]
        assert torch.equal(before[[0, 2]], after[[0, 2]]), name
        assert not torch.isclose(before[1], after[1]), name


def test_latent_decoder_loss_is_the_sum_of_token_nll():
    decoder = hugging_face_decoder("gpt2", ["embedding", "memory"], 1)
    ids, latent = torch.randint(3, VOCAB, (2, 5)), torch.randn(2, LATENT)
    ids[1, 3:] = 0
    loss, logits = decoder(input_ids=ids, past=latent, labels=ids, label_ignore=0)
    wanted = [
        -sum(logits[row, n - 1].log_softmax(-1)[ids[row, n]] for n in range(1, size)) for row, size in ((0, 5), (1, 3))
    ]
    torch.testing.assert_close(loss, torch.stack(wanted))


SIZES = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "vocab_size": VOCAB, "max_length": 64}


@pytest.mark.parametrize("routes", [["embedding", "memory"], ["cross_attention"], ["soft_prompt"]], ids="+".join)
@pytest.mark.parametrize("architecture", ["bert", "qwen2", "opt", "bloom", "gpt_neox"])
def test_latent_decoder_architectures_are_equal_with_kv_cache(architecture, routes):
    config = HuggingFaceDecoderConfig(architecture=architecture, routes=routes, num_slots=2, **SIZES)
    build = LATENT_DECODERS.get("hugging_face").build
    if "cross_attention" in routes and architecture != "bert":
        with pytest.raises(ConnectorError, match="has no cross-attention; use gpt2"):
            build(config, LATENT)
        return
    decoder, (ids, mask, latent) = spread(build(config, LATENT)), ragged()
    cached = decoder.generate(latent, ids, NEW, mask=mask)
    assert torch.equal(cached, decoder.generate(latent, ids, NEW, mask=mask, use_cache=False))
    for row in range(3):
        alone = decoder.generate(latent[row : row + 1], ids[row : row + 1][:, mask[row]], NEW)
        assert torch.equal(cached[row, -NEW:], alone[0, -NEW:])


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("bart", "cannot be called as a decoder"),
        ("mamba", "has no attention"),
        ("berd", "transformers has no architecture 'berd'"),
    ],
)
def test_latent_decoder_refuses_other_architectures(architecture, message):
    config = HuggingFaceDecoderConfig(architecture=architecture, **SIZES)
    with pytest.raises(ConnectorError, match=message):
        LATENT_DECODERS.get("hugging_face").build(config, LATENT)


@pytest.mark.parametrize("architecture", ["modernbert", "t5", "electra", "mpnet"])
def test_latent_encoder_architectures(architecture):
    config = HuggingFaceEncoderConfig(architecture=architecture, **SIZES)
    encoder = LATENT_ENCODERS.get("hugging_face").build(config, LATENT).eval()
    ids, mask, _ = ragged()
    ids, mask = ids.roll(1, 0)[:2, :5], torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
    changed = ids.clone()
    changed[0, 3:] = 7
    before, after = encoder.moments(ids, mask)[0], encoder.moments(changed, mask)[0]
    torch.testing.assert_close(before, after)
    assert not torch.allclose(before[0], before[1])


def test_latent_decoder_errors():
    decoder = hugging_face_decoder("gpt2", ["embedding"], 1)
    ids = torch.ones(2, 3, dtype=torch.long)
    with pytest.raises(InputError, match=r"float32 \[2, 7\], and this decoder takes float \[B, 6\]"):
        decoder(ids, torch.randn(2, 7))
    with pytest.raises(InputError, match="token id 40 is out of range"):
        decoder(ids + 39, torch.randn(2, LATENT))
    with pytest.raises(InputError, match="each latent takes one prompt"):
        decoder.generate(torch.randn(2, LATENT), ids[:1], 3)
    with pytest.raises(InputError, match="need 70 positions; max_length is 64"):
        decoder.generate(torch.randn(2, LATENT), 1, 69)
    with pytest.raises(ValueError, match="routes is empty"):
        hugging_face_decoder("gpt2", [], 1)
