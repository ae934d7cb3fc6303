"""Invalid inputs of a model, and the messages of their errors."""

import pytest
import torch

from model.transformer.inputs import InputError
from tests.model import tiny

FLOATS, IDS = torch.zeros(2, 7, 16), torch.zeros(2, 7, dtype=torch.long)

REFUSED = [
    ({}, IDS, "input is token ids, int64 [2, 7], and the model has no embedding: set vocab_size"),
    ({"input_dim": 5}, IDS, "input_dim excludes token ids"),
    ({}, torch.zeros(2, 7, 15), "input must be float [B, N, 16]; got float32 [2, 7, 15]"),
    ({"input_dim": 5}, FLOATS, "input must be float [B, N, 5]; got float32 [2, 7, 16]"),
    (
        {"vocab_size": 11},
        torch.zeros(2, 7),
        "input must be token ids, int [B, N], or float [B, N, 16]; got float32 [2, 7]",
    ),
    ({"vocab_size": 11}, torch.zeros(2, 7, 11, dtype=torch.long), "float [B, N, 16]; got int64 [2, 7, 11]"),
    ({"vocab_size": 11}, torch.zeros(2, 7, dtype=torch.bool), "float [B, N, 16]; got bool [2, 7]"),
    ({"vocab_size": 11}, torch.zeros(2, 0, dtype=torch.long), "float [B, N, 16]; got int64 [2, 0]"),
    ({"vocab_size": 11}, [[1, 2]], "float [B, N, 16]; got a list"),
    ({"vocab_size": 11}, IDS + 11, "token id 11 is out of range: vocab_size is 11"),
    ({"vocab_size": 11}, IDS - 1, "token id -1 is out of range"),
    ({"max_length": 6}, FLOATS, "the sequence has 7 positions, and max_length is 6"),
]


@pytest.mark.parametrize(("changes", "given", "message"), REFUSED, ids=[message for *_, message in REFUSED])
@pytest.mark.parametrize("build", [tiny.encoder, tiny.decoder])
def test_invalid_inputs_are_named(build, changes, given, message):
    with pytest.raises(InputError) as caught:
        build(**changes)(given)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(2, 7), "mask must be bool [2, 7], True at real tokens; got float32 [2, 7]; use mask.bool()"),
        (torch.ones(2, 6, dtype=torch.bool), "mask must be bool [2, 7], True at real tokens; got bool [2, 6]"),
        ([True], "True at real tokens; got a list"),
    ],
)
def test_invalid_masks_are_named(mask, message):
    for model in (tiny.encoder(), tiny.decoder()):
        with pytest.raises(InputError) as caught:
            model(FLOATS, mask=mask)
        assert message in str(caught.value)
    with pytest.raises(InputError, match="context_mask must be bool"):
        tiny.decoder(use_cross_attention=True)(FLOATS, FLOATS, context_mask=mask)


def test_invalid_contexts_are_named():
    alone, crossed = tiny.decoder(), tiny.decoder(use_cross_attention=True)
    with pytest.raises(InputError, match=r"with cross-attention needs context, float \[2, M, 16\]"):
        crossed(FLOATS)
    with pytest.raises(InputError, match="has no cross-attention; set use_cross_attention: true"):
        alone(FLOATS, FLOATS)
    with pytest.raises(InputError, match="context_mask is given without a context"):
        alone(FLOATS, context_mask=IDS.bool())
    for context in (torch.zeros(2, 4, 15), torch.zeros(1, 4, 16), IDS):
        with pytest.raises(InputError, match="context must be float"):
            crossed(FLOATS, context)


def test_attention_type_must_fit_the_role():
    with pytest.raises(ValueError, match="use causal_linear in a decoder"):
        tiny.decoder(attention_type="linear")
    with pytest.raises(ValueError, match="no context to attend to"):
        tiny.encoder(use_cross_attention=True)
    with pytest.raises(ValueError, match="differs from the encoder's 16"):
        tiny.EncoderDecoderTransformer(tiny.params(), tiny.params(d_model=32))


def test_inputs_of_any_integer_dtype_and_floats():
    model = tiny.encoder(vocab_size=11)
    for dtype in (torch.int32, torch.uint8, torch.int16):
        assert torch.equal(model(IDS.to(dtype)), model(IDS))
    assert model(FLOATS).shape == (2, 7, 11)
