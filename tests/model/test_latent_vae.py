"""The published VAE: its five values against the formulas, its tokenizers, and what `compat: dmlp` changes."""

from types import SimpleNamespace

import pytest
import torch

from model.latent import VAE, VAE_DDPM, VAE_Abs, VAE_abs
from model.latent.connectors.published import MODEL_CLASS
from model.latent.ddpm import DDPM
from model.latent.networks import LinearModel
from model.latent.variational import cyclical_weight, kl_cost, kl_divergence
from model.transformer.inputs import InputError
from tests.model.latent_parts import LATENT, VOCAB, connector

IDS = SimpleNamespace(pad_token_id=0, bos_token_id=1, eos_token_id=2)


def vae(encoder="BertForLatentConnector", decoder="GPT2ForLatentConnector", **options):
    made = connector(encoder, pad_id=0), connector(decoder)
    return VAE(*made, IDS, options.pop("tokenizer", IDS), LATENT, options.pop("output_dir", None), **options).eval()


def texts():
    torch.manual_seed(3)
    ids = torch.randint(3, VOCAB, (3, 7))
    ids[:, 0] = 1
    ids[1, 4:] = 0
    ids[2, 2:] = 0
    return ids


@pytest.mark.parametrize("compat", [None, "dmlp"])
def test_vae_outputs_match_the_formulas(compat):
    model, ids = vae(compat=compat, kl_weight=0.3), texts()
    torch.manual_seed(9)
    loss_rec, loss_kl, loss, z, mu = model(ids, ids)
    torch.manual_seed(9)
    wanted_mu, logvar = model.encoder.moments(ids, ids != 0)
    if compat:
        logvar = torch.full_like(mu, 0.008).log()
    wanted_z = wanted_mu + (logvar / 2).exp() * torch.randn(3, 1, LATENT)[:, 0]
    rec = model.decoder(input_ids=ids, past=wanted_z, labels=ids, label_ignore=0)[0]
    kl = (0.5 * (wanted_mu**2 + logvar.exp() - logvar - 1)).sum(1)
    lengths = torch.tensor([7.0, 4.0, 2.0])
    for given, right in ((mu, wanted_mu), (z, wanted_z), (loss_rec, rec), (loss_kl, kl)):
        torch.testing.assert_close(given, right)
    torch.testing.assert_close(loss, (rec if compat else rec + 0.3 * kl) / lengths)
    assert loss_rec.shape == loss_kl.shape == loss.shape == (3,)


def test_vae_samples_have_the_given_moments():
    model = vae()
    mu, logvar = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, -3.0]])
    drawn = model.reparameterize(mu, logvar, nsamples=20_000)
    assert drawn.shape == (1, 20_000, 2)
    torch.testing.assert_close(drawn.mean(1), mu, atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.var(1), logvar.exp(), atol=0.05, rtol=0.05)
    assert model.reparametrized(mu, logvar).shape == (1, 2)
    assert model.reparametrized(mu, logvar, nsamples=3).shape == (1, 3, 2)


def test_vae_rows_are_independent():
    model, ids = vae(variance=1e-12), texts()
    before = model(ids, ids)
    changed = ids.clone()
    changed[0, 1:] = 5
    after = model(changed, changed)
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one[1:], other[1:])
        assert not torch.equal(one[0], other[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("compat", [None, "dmlp"])
@pytest.mark.parametrize("decoder", ["GPT2ForLatentConnectorNew", "GPT2ForLatentConnector"])
def test_vae_ddpm_returns_seven_outputs(decoder, compat, dtype):
    model = vae("DebertaForLatentConnectorNew", decoder, compat=compat).train()
    ddpm = DDPM(LinearModel(LATENT), (1e-4, 0.02), 1000, compat=compat)
    joint = VAE_DDPM(model, ddpm, 1.0, compat=compat).to(dtype)
    values = joint(texts(), texts())
    assert [list(value.shape) for value in values] == [[3], [3], [], [3, LATENT], [3, LATENT], [3], [3, 1]]
    values.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in joint.parameters() if p.grad is not None)


def test_vae_generates_and_saves(tmp_path):
    model = vae(output_dir=tmp_path)
    latent = torch.randn(2, LATENT)
    tokens = model.generate(latent, 5)
    assert tokens.shape[0] == 2
    assert bool((tokens[:, 0] == 1).all())
    model.save_pretrained()
    again = MODEL_CLASS["GPT2ForLatentConnector"].from_pretrained(tmp_path / "decoder").eval()
    assert torch.equal(again.generate(latent, 1, 5, eos_token=2, pad_token=0), tokens)


def test_vae_interface_has_both_names():
    assert VAE_abs is VAE_Abs
    assert isinstance(vae(), VAE_Abs)
    with pytest.raises(TypeError, match="abstract"):
        VAE_Abs(torch.nn.Identity(), torch.nn.Identity())


def test_custom_vae_needs_only_init_and_forward():
    class Custom(VAE_Abs):
        def __init__(self, encoder, decoder, device=None):
            super().__init__(encoder, decoder, device=device)

        def forward(self, inputs, labels):
            return self.decoder(self.encoder(inputs))

    custom = Custom(torch.nn.Linear(2, 2), torch.nn.Linear(2, 3), device="cpu")
    assert custom(torch.randn(4, 2), None).shape == (4, 3)
    mu, logvar = torch.randn(2, 5), torch.full((2, 5), -60.0)
    torch.testing.assert_close(custom.reparameterize(mu, logvar, nsamples=3), mu[:, None].expand(2, 3, 5))


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (
            SimpleNamespace(pad_token_id=None, bos_token_id=1, eos_token_id=2),
            "has no padding token.*'pad_token': '<PAD>'",
        ),
        (SimpleNamespace(pad_token_id=0, bos_token_id=None, eos_token_id=2), "has no beginning-of-text token.*'<BOS>'"),
        (SimpleNamespace(pad_token_id=0, bos_token_id=1, eos_token_id=None), "has no end-of-text token.*'<EOS>'"),
        (SimpleNamespace(pad_token_id=2, bos_token_id=1, eos_token_id=2), "pads with its end-of-text token 2"),
    ],
)
def test_vae_tokenizer_without_required_token_is_refused(tokenizer, message):
    with pytest.raises(InputError, match=f"tokenizer_decoder {message}"):
        vae(tokenizer=tokenizer)


def test_vae_errors():
    with pytest.raises(InputError, match="the encoder's latent_size is 6, and the VAE's 7"):
        VAE(connector("BertForLatentConnector"), connector("GPT2ForLatentConnector"), IDS, IDS, 7)
    ids = texts()
    ids[1, 1:] = 0
    with pytest.raises(InputError, match=r"texts \[1\] have no token to predict"):
        vae()(texts(), ids)
    ids[1] = 0
    with pytest.raises(InputError, match=r"texts \[1\] of the batch are empty"):
        vae()(ids, texts())
    with pytest.raises(InputError, match="token id 900 is out of range"):
        vae()(texts() + (texts() == 5) * 895, texts())
    with pytest.raises(InputError, match="the same texts"):
        vae()(texts(), texts()[:1])
    long = torch.full((1, 70), 5)
    with pytest.raises(InputError, match="texts have 70 tokens, and the encoder has 64 positions"):
        vae()(long, texts()[:1])
    with pytest.raises(InputError, match="texts have 70 tokens, and the decoder has 63 positions"):
        vae()(texts()[:1], long)
    with pytest.raises(InputError, match="pass one, or set output_dir"):
        vae().save_pretrained()


def test_kl_against_torch_and_free_bits():
    mu, logvar = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    normal = torch.distributions.Normal
    wanted = torch.distributions.kl_divergence(normal(mu, (logvar / 2).exp()), normal(0.0, 1.0))
    kl = kl_divergence(mu, logvar)
    torch.testing.assert_close(kl, wanted)
    torch.testing.assert_close(kl_cost(kl, 0.5), torch.maximum(wanted, torch.tensor(0.5)).sum(1))


def test_the_weight_rises_in_cycles():
    weights = [cyclical_weight(step, 100, 2, 0.5) for step in range(100)]
    assert weights[0] == weights[50] == 0.0
    assert weights[25] == weights[49] == weights[75] == 1.0
    assert weights[10] == pytest.approx(0.4)
    assert {cyclical_weight(step, 100, 0, 0.5) for step in range(100)} == {1.0}
