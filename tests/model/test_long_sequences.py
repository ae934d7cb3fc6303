"""Long sequences without autograd: position-wise layers run in parts, with the same result."""

import pytest
import torch

from model.transformer import norms
from tests.model import tiny


@pytest.mark.parametrize("norm", ["layernorm", "scalenorm", "rezero"])
@pytest.mark.parametrize("attention_type", ["softmax", "linear", "causal_linear"])
def test_long_sequence_parts_change_nothing(norm, attention_type, monkeypatch):
    model = tiny.encoder(attention_type=attention_type, vocab_size=tiny.VOCAB, **tiny.norm_of(norm)).eval()
    ids, mask = torch.randint(tiny.VOCAB, (2, 200)), tiny.lengths_mask([200, 130], 200)
    wanted = model(ids, mask)
    monkeypatch.setattr(norms, "TOKENS_AT_ONCE", 64)
    seen = []
    for layer in model.layers:
        layer.feed_forward.sublayer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    with torch.no_grad():
        assert tiny.gap(model(ids, mask), wanted) < 1e-6
    assert set(seen) == {(64, 16), (400 % 64, 16)}
    seen.clear()
    model(ids, mask)
    assert set(seen) == {(2, 200, 16)}  # autograd saves all activations anyway
