"""Joint loss of an autoencoder and a diffusion, ours and the published one, and their interfaces."""

import pytest
import torch
from torch import nn

from model.latent.abstract import JointLosses, VAE_Abs, VAE_abs, VAE_DDPM_Abs
from model.latent.ddpm import DDPM
from model.latent.joint import VAE_DDPM
from model.latent.networks import LinearModel
from model.transformer.inputs import InputError
from model_factory.diffusion.randomness import RowGenerators

LATENT, VOCABULARY, LENGTH, ROWS, STEPS = 4, 9, 5, 6, 30


class TinyVAE(VAE_Abs):
    """Bag of tokens to a latent, and the latent to one distribution for all tokens."""

    def __init__(self) -> None:
        super().__init__(nn.EmbeddingBag(VOCABULARY, 2 * LATENT), nn.Linear(LATENT, VOCABULARY), device="cpu")

    def reparameterize(self, mu, logvar, nsamples=1):
        noise = RowGenerators.from_seed(1, torch.arange(len(mu))).rand(nsamples, mu.shape[1]) - 0.5
        return mu[:, None] + noise.to(mu) * torch.exp(logvar / 2)[:, None]

    def forward(self, inputs, labels):
        mu, logvar = self.encoder(inputs).chunk(2, -1)
        latent = self.reparameterize(mu, logvar)[:, 0]
        loss_rec = -self.decoder(latent).log_softmax(-1).gather(1, labels).sum(1)
        loss_kl = (mu.square() + logvar.exp() - logvar - 1).sum(1) / 2
        return loss_rec, loss_kl, loss_rec / labels.shape[1] + 0.1 * loss_kl, latent, mu


def parts() -> tuple[TinyVAE, DDPM]:
    torch.manual_seed(0)
    return TinyVAE(), DDPM(LinearModel(LATENT), (1e-3, 0.4), STEPS)


def texts() -> torch.Tensor:
    return torch.randint(VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(3))


def draws() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    times = torch.randint(1, STEPS + 1, (ROWS,), generator=generator)
    return {"t": times, "noise": torch.randn(ROWS, LATENT, generator=generator)}


@pytest.mark.parametrize("settings", [{}, {"weighting": "inverse"}, {"compat": "dmlp"}])
@pytest.mark.parametrize("ddpm_weight", [0.0, 0.7])
def test_joint_loss_matches_the_formula(settings: dict[str, str], ddpm_weight: float) -> None:
    vae, ddpm = parts()
    joint = VAE_DDPM(vae, ddpm, ddpm_weight, **settings)  # type: ignore[arg-type]
    given = joint(texts(), texts(), **draws())
    loss_rec, loss_kl, loss, latent_z, mu = vae(texts(), texts())
    ddpm_loss, weight = ddpm(latent_z, mu, **draws())
    rows = [float(1 / (weight[i, 0] * STEPS)) * loss[i] for i in range(ROWS)]
    everyone = [float(1 / (weight[i, 0] * STEPS)) * loss[j] for i in range(ROWS) for j in range(ROWS)]
    scaled = {"": list(loss), "inverse": rows, "dmlp": everyone}["".join(settings.values())]
    wanted = sum(scaled) / len(scaled) + ddpm_weight * ddpm_loss.mean() if ddpm_weight else loss.mean()
    assert isinstance(given, JointLosses)
    for value, expected in zip(given, (loss_rec, loss_kl, wanted, latent_z, mu, ddpm_loss, weight), strict=True):
        torch.testing.assert_close(value, expected)


def test_joint_loss_weights_each_row_unlike_published() -> None:
    """Permuting the weights changes our loss, and not DMLP's."""
    loss, weight = torch.arange(1.0, ROWS + 1), torch.rand(ROWS, 1, generator=torch.Generator().manual_seed(1)) + 0.1
    for settings, same in (({"compat": "dmlp"}, True), ({"weighting": "inverse"}, False)):
        joint = VAE_DDPM(*parts(), 1.0, **settings)  # type: ignore[arg-type]
        totals = [joint._total(loss, torch.zeros(ROWS), order) for order in (weight, weight.flip(0))]
        assert torch.isclose(*totals) == same


def test_joint_loss_inverse_weighting_is_a_bound() -> None:
    """Check that T w times a row's loss is its autoencoder loss plus T w times its diffusion loss, an estimate of the bound."""
    joint = VAE_DDPM(*parts(), 1.0, weighting="inverse")
    for row in range(ROWS):
        kept = {name: value[row : row + 1] for name, value in draws().items()}
        alone = joint(texts()[row : row + 1], texts()[row : row + 1], **kept)
        factor = alone.loss_weight.item() * STEPS
        loss = joint.model_vae(texts()[row : row + 1], texts()[row : row + 1])[2]
        torch.testing.assert_close(factor * alone.loss, loss[0] + factor * alone.ddpm_loss[0])


@pytest.mark.parametrize("ddpm_weight", [0.0, 0.5])
def test_joint_loss_gradients_follow_ddpm_weight(ddpm_weight: float) -> None:
    joint = VAE_DDPM(*parts(), ddpm_weight)
    values = joint(texts(), texts(), generator=torch.Generator().manual_seed(0))
    values.loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in joint.model_vae.parameters())
    assert all((p.grad is not None) == (ddpm_weight > 0) for p in joint.ddpm.parameters())
    assert values.ddpm_loss.requires_grad == (ddpm_weight > 0)
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()


def test_joint_loss_diffusion_has_encoder_gradient() -> None:
    """Check that joint training passes the diffusion's gradient to the latent."""
    grads = []
    for ddpm_weight in (0.0, 0.5):
        joint = VAE_DDPM(*parts(), ddpm_weight)
        joint(texts(), texts(), **draws()).loss.backward()
        grads.append(joint.model_vae.encoder.weight.grad)  # type: ignore[union-attr]
    assert not torch.allclose(*grads)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: VAE_DDPM(*parts(), -1.0), "ddpm_weight is -1.0"),
        (lambda: VAE_DDPM(*parts(), float("nan")), "ddpm_weight is nan"),
        (lambda: VAE_DDPM(*parts(), 1.0, weighting="equal"), "weighting is 'equal'; use 'uniform' or 'inverse'"),  # type: ignore[arg-type]
        (lambda: VAE_DDPM(*parts(), 1.0, compat="optimus"), "compat is 'optimus'"),  # type: ignore[arg-type]
        (
            lambda: VAE_DDPM(*parts(), 1.0)._total(torch.ones(ROWS, 1), torch.ones(ROWS), torch.ones(ROWS, 1)),
            r"the autoencoder's loss is float32 \[6, 1\]; it must be \[6\]",
        ),
        (
            lambda: VAE_DDPM(*parts(), 1.0)._total(torch.ones(ROWS), torch.ones(()), torch.ones(ROWS, 1)),
            r"the diffusion's loss is float32 \[\]; it must be \[6\]",
        ),
    ],
)
def test_joint_loss_errors_name_valid_values(call, message) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_joint_interfaces_are_abstract() -> None:
    assert VAE_abs is VAE_Abs
    assert issubclass(VAE_DDPM, VAE_DDPM_Abs)
    for interface in (lambda: VAE_Abs(nn.Identity(), nn.Identity()), lambda: VAE_DDPM_Abs(*parts(), 1.0)):
        with pytest.raises(TypeError, match="abstract"):
            interface()
