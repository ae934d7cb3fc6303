"""What a model refuses, and the words in which it does."""

import pytest
import torch

from model.inputs import InputError
from tests.model import tiny

FLOATS, IDS = torch.zeros(2, 7, 16), torch.zeros(2, 7, dtype=torch.long)

REFUSED = [
    ({}, IDS, "token ids int64 [2, 7] met a model without an embedding: set vocab_size"),
    ({"input_dim": 5}, IDS, "input_dim excludes token ids"),
    ({}, torch.zeros(2, 7, 15), "input is float32 [2, 7, 15], and float [B, N, 16] fits"),
    ({"input_dim": 5}, FLOATS, "and float [B, N, 5] fits"),
    ({"vocab_size": 11}, torch.zeros(2, 7), "token ids, int [B, N], or float [B, N, 16] fits"),
    ({"vocab_size": 11}, torch.zeros(2, 7, 11, dtype=torch.long), "input is int64 [2, 7, 11]"),
    ({"vocab_size": 11}, torch.zeros(2, 7, dtype=torch.bool), "input is bool [2, 7]"),
    ({"vocab_size": 11}, torch.zeros(2, 0, dtype=torch.long), "input is int64 [2, 0]"),
    ({"vocab_size": 11}, [[1, 2]], "input is a list"),
    ({"vocab_size": 11}, IDS + 11, "token id 11 is out of range: vocab_size is 11"),
    ({"vocab_size": 11}, IDS - 1, "token id -1 is out of range"),
    ({"max_length": 6}, FLOATS, "the sequence has 7 positions, and max_length is 6"),
]


@pytest.mark.parametrize(("changes", "given", "message"), REFUSED, ids=[message for *_, message in REFUSED])
@pytest.mark.parametrize("build", [tiny.encoder, tiny.decoder])
def test_refused_inputs(build, changes, given, message):
    with pytest.raises(InputError) as caught:
        build(**changes)(given)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(2, 7), "mask is float32 [2, 7], and bool [2, 7], True at real tokens, is needed; mask.bool() fits"),
        (torch.ones(2, 6, dtype=torch.bool), "mask is bool [2, 6], and bool [2, 7]"),
        ([True], "mask is a list"),
    ],
)
def test_refused_masks(mask, message):
    for model in (tiny.encoder(), tiny.decoder()):
        with pytest.raises(InputError) as caught:
            model(FLOATS, mask=mask)
        assert message in str(caught.value)
    with pytest.raises(InputError, match="context_mask is"):
        tiny.decoder(use_cross_attention=True)(FLOATS, FLOATS, context_mask=mask)


def test_refused_contexts():
    alone, crossed = tiny.decoder(), tiny.decoder(use_cross_attention=True)
    with pytest.raises(InputError, match=r"with cross-attention needs context, float \[2, M, 16\]"):
        crossed(FLOATS)
    with pytest.raises(InputError, match="has no cross-attention; use_cross_attention: true"):
        alone(FLOATS, FLOATS)
    with pytest.raises(InputError, match="context_mask was given without a context"):
        alone(FLOATS, context_mask=IDS.bool())
    for context in (torch.zeros(2, 4, 15), torch.zeros(1, 4, 16), IDS):
        with pytest.raises(InputError, match="context is"):
            crossed(FLOATS, context)


def test_attention_that_does_not_fit_the_role():
    with pytest.raises(ValueError, match="causal_linear fits a decoder"):
        tiny.decoder(attention_type="linear")
    with pytest.raises(ValueError, match="no context to attend to"):
        tiny.encoder(use_cross_attention=True)
    with pytest.raises(ValueError, match="differs from the encoder's 16"):
        tiny.EncoderDecoderTransformer(tiny.params(), tiny.params(d_model=32))


def test_ids_of_any_width_and_floats_beside_an_embedding():
    model = tiny.encoder(vocab_size=11)
    for dtype in (torch.int32, torch.uint8, torch.int16):
        assert torch.equal(model(IDS.to(dtype)), model(IDS))
    assert model(FLOATS).shape == (2, 7, 11)
