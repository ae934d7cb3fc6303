"""Every shipped model in bfloat16: under autocast, and cast as a whole, as FSDP casts its weights."""

import copy

import pytest
import torch
from torch import nn

from model.latent.normaliser import LatentNormaliser
from model.norms import LayerNorm, RMSNorm
from model.transformer.norms import ScaleNorm
from tests.model import shipped
from tests.model.tiny import gap

SECTIONS = {**shipped.sections(dropout=0.0), **shipped.latent_sections()}
LOSS, AUTOCAST, CAST = 1e-3, 1e-2, 2e-2
"""Relative bounds: of losses, and of gradients in norm, under autocast and in a model that is cast as a whole.

Two layers of width 32 round more than large ones; a wrong dtype in a norm or a state is off by far more.
"""


@pytest.mark.parametrize("name", list(SECTIONS))
def test_bfloat16_trains_every_model(name, tmp_path):
    section = SECTIONS[name]
    model = shipped.build(section, tmp_path)
    autocast, cast = copy.deepcopy(model), copy.deepcopy(model).bfloat16()  # before running averages change
    loss = shipped.loss_of(model, section)
    loss.backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = shipped.loss_of(autocast, section)
    narrow.backward()
    assert float(narrow.detach()) == pytest.approx(float(loss.detach()), rel=LOSS)
    assert gap(shipped.gradients(autocast), shipped.gradients(model)) < AUTOCAST
    whole = shipped.loss_of(cast, section)
    whole.backward()
    assert float(whole.detach()) == pytest.approx(float(loss.detach()), rel=2 * LOSS)
    kinks = 1.5 if name == "latent residual" else 1  # the slope of its LeakyReLU jumps where rounding moves a sign
    assert gap(shipped.gradients(cast), shipped.gradients(model)) < kinks * CAST


@pytest.mark.parametrize("kind", [LayerNorm, RMSNorm, ScaleNorm])
@pytest.mark.parametrize("weight", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stream", [torch.float32, torch.bfloat16])
def test_norm_takes_other_dtype_than_its_weights(kind, weight, stream):
    norm = kind(16)
    for parameter in norm.parameters():
        nn.init.normal_(parameter, mean=1.0)
    x = 300 + torch.randn(5, 16)
    wanted = copy.deepcopy(norm).double()(x.to(stream).double())
    out = norm.to(weight)(x.to(stream))
    narrow = torch.bfloat16 in (weight, stream)
    assert out.dtype == (torch.bfloat16 if narrow else torch.float32)
    assert gap(out, wanted) < (1e-2 if narrow else 2e-5)


@pytest.mark.parametrize(("ours", "theirs"), [(LayerNorm, nn.LayerNorm), (RMSNorm, nn.RMSNorm)])
def test_norm_equals_pytorch_bit_for_bit(ours, theirs):
    x = torch.randn(5, 16)
    own, reference = ours(16), theirs(16)
    assert own.state_dict().keys() == reference.state_dict().keys()
    assert torch.equal(own(x), reference(x))


def test_latent_averages_stay_float32_after_cast():
    normaliser = LatentNormaliser(3)
    normaliser.observe(100 + torch.randn(64, 3))
    wanted = normaliser.std.clone()
    assert torch.equal(normaliser.bfloat16().std, wanted)
    assert normaliser(torch.zeros(2, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16
