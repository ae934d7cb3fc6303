"""Denoisers of latents: shapes, sizes, conditioning, and independent rows."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from model.latent.networks import LinearModel, MLPSkipNet, PerformerNet, ResidualLinear, SelfConditioned, TransformerNet
from model.latent.networks.conditions import Condition, SineCondition, sinusoids
from model.transformer.inputs import InputError

LATENT = 12
TOKENS = {"d_model": 16, "num_tokens": 3, "num_layers": 2, "num_heads": 2}
BUILDERS = {
    "mlp": lambda: MLPSkipNet(LATENT, width=24, num_layers=4),
    "transformer": lambda: TransformerNet(LATENT, **TOKENS),
    "post-norm": lambda: TransformerNet(LATENT, norm_first=False, **TOKENS),
    "performer": lambda: PerformerNet(LATENT, **TOKENS),
    "performer-linear": lambda: PerformerNet(LATENT, attention_type="linear", **TOKENS),
    "linear": lambda: LinearModel(LATENT),
    "residual": lambda: ResidualLinear(LATENT),
    "no-residual": lambda: ResidualLinear(LATENT, residual=False),
    "self-conditioned": lambda: SelfConditioned(LinearModel(LATENT), LATENT),
}
every_network = pytest.mark.parametrize("name", BUILDERS)


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return BUILDERS[name]().eval()


def inputs(rows: int = 5, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, z_sem = (torch.randn(rows, LATENT, generator=generator) for _ in range(2))
    return x, torch.rand(rows, generator=generator), z_sem


@every_network
@pytest.mark.parametrize("training", [False, True])
def test_latent_denoiser_rows_are_independent(name: str, training: bool) -> None:
    network = built(name).train(training)
    x, t, z_sem = inputs()
    others = [value.clone() for value in (x, t, z_sem)]
    for value in others:
        value[[0, 1, 3, 4]] = torch.rand_like(value[[0, 1, 3, 4]])
    out = network(x, t, z_sem)
    assert torch.equal(network(*others)[2], out[2])
    assert not torch.isclose(network(*others)[0], out[0]).all()
    torch.testing.assert_close(network(x[2:3], t[2:3], z_sem[2:3])[0], out[2], rtol=1e-5, atol=1e-6)


@every_network
def test_latent_denoiser_uses_all_conditioning(name: str) -> None:
    network, (x, t, z_sem) = built(name), inputs()
    out = network(x, t, z_sem)
    for changed in [(x.flip(1), t, z_sem), (x, t * 0.5, z_sem), (x, t, z_sem.flip(1)), (x, t, None)]:
        assert (network(*changed) - out).abs().amax(1).min() > 1e-4
    assert torch.equal(network(x, t[:, None], z_sem), out)
    assert torch.equal(network(x, t), network(x, t, torch.zeros_like(x)))


@every_network
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_latent_denoiser_all_parameters_get_gradients(name: str, dtype: torch.dtype) -> None:
    network, (x, t, z_sem) = built(name).to(dtype).train(), inputs()
    extra = {"estimate": x.to(dtype)} if name == "self-conditioned" else {}
    out = network(x.to(dtype), t, z_sem, **extra)
    assert (out.shape, out.dtype) == (x.shape, dtype)
    (out - x).square().sum().backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all()
        # a constant added to all keys of a softmax has no effect
        assert parameter.grad.any() or "in_proj_bias" in parameter_name, parameter_name


@every_network
def test_latent_denoiser_is_equal_after_saving(name: str) -> None:
    network, (x, t, z_sem) = built(name), inputs()
    torch.manual_seed(7)
    other = BUILDERS[name]().eval()
    assert not torch.equal(other(x, t, z_sem), network(x, t, z_sem))
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(x, t, z_sem), network(x, t, z_sem))


def mlp_parameters(latent: int, width: int, layers: int, time: int) -> int:
    def linear(given: int, wanted: int) -> int:
        return (given + 1) * wanted

    def layer(given: int) -> int:
        return linear(given, width) + linear(latent, width) + 2 * width

    inner = layer(latent) + (layers - 2) * layer(width + latent)
    return linear(time, latent) + linear(latent, latent) + inner + linear(width + latent, latent)


@pytest.mark.parametrize(("latent", "millions"), [(128, 85.9), (64, 80.8)])
def test_mlp_skip_net_has_the_published_size(latent: int, millions: float) -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in MLPSkipNet(latent).parameters())
    assert count == mlp_parameters(latent, 2048, 20, 64)
    assert round(count / 1e6, 1) == millions


@pytest.mark.parametrize("time_scale", [1.0, 1000.0])
def test_mlp_skip_net_has_the_published_layers(time_scale: float) -> None:
    """Compare with the layers as in the paper, with the network's weights."""
    network, (x, t, z_sem) = MLPSkipNet(LATENT, width=24, num_layers=4, time_scale=time_scale).eval(), inputs()
    places = torch.arange(32) / 32
    angles = time_scale * t[:, None] / 10_000**places
    first, second = network.condition.first, network.condition.second
    time_emb = second(F.silu(first(torch.cat([torch.cos(angles), torch.sin(angles)], 1)))) + z_sem
    hidden = x
    for index, layer in enumerate(network.layers):
        joined = hidden if index == 0 else torch.cat([hidden, x], 1)
        hidden = F.silu(layer.norm(layer.linear(joined) * (1 + layer.scale(F.silu(time_emb)))))
    wanted = network.last(torch.cat([hidden, x], 1))
    torch.testing.assert_close(network(x, t, z_sem), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("residual", [True, False])
def test_residual_linear_blocks(residual: bool) -> None:
    network, (x, t, z_sem) = ResidualLinear(LATENT, num_layers=3, residual=residual), inputs()
    hidden = x + network.condition(t, z_sem)
    for norm, linear, _ in network.blocks:  # type: ignore[misc]
        new = F.leaky_relu(linear(F.layer_norm(hidden, (LATENT,), norm.weight, norm.bias)), 0.01)
        hidden = hidden + new if residual else new
    torch.testing.assert_close(network(x, t, z_sem), network.last(hidden))


def test_linear_model_has_the_published_time_embedding() -> None:
    time_emb, t = SineCondition(LATENT), torch.tensor([0.1, 0.7])
    line = t[:, None] * time_emb.first.weight[:, 0]
    wanted = torch.sin(torch.where(line > 0, line, 0.01 * line) @ time_emb.second.weight.T + time_emb.second.bias)
    torch.testing.assert_close(time_emb(t), wanted)


def test_time_scale_separates_time_embeddings() -> None:
    published, scaled = (sinusoids(scale * torch.tensor([0.1, 1.0]), 64) for scale in (1.0, 1000.0))
    assert F.cosine_similarity(*published, dim=0) == pytest.approx(0.97, abs=0.005)
    assert abs(F.cosine_similarity(*scaled, dim=0)) < 0.6


def test_sinusoids_are_cosines_then_sines_in_float32_or_wider() -> None:
    features = sinusoids(torch.tensor([2.0], dtype=torch.bfloat16), 4)
    assert features.dtype == torch.float32
    angles = torch.tensor([2.0, 0.02])
    torch.testing.assert_close(features[0], torch.cat([angles.cos(), angles.sin()]))


def test_self_conditioned_network_starts_as_the_wrapped_one() -> None:
    network, (x, t, z_sem) = built("linear"), inputs()
    wrapped = SelfConditioned(network, LATENT)
    assert torch.equal(wrapped(x, t, z_sem, estimate=100 * x), network(x, t, z_sem))
    nn.init.eye_(wrapped.linear.weight)
    assert torch.equal(wrapped(x, t, estimate=z_sem), network(x + z_sem, t))
    assert torch.equal(wrapped(x, t, estimate=0 * z_sem), wrapped(x, t))


@every_network
def test_latent_denoiser_wrong_width_names_both(name: str) -> None:
    network, (x, t, z_sem) = built(name), inputs()
    with pytest.raises(InputError, match=f"the latent is {LATENT - 2} wide, and the network was built for {LATENT}"):
        network(x[:, 2:], t)
    with pytest.raises(InputError, match="z_sem is 11 wide"):
        network(x, t, z_sem[:, 1:])
    with pytest.raises(InputError, match="z_sem has 1 rows, and the latent 5"):
        network(x, t, z_sem[:1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda net: net(torch.zeros(3, 2, LATENT), torch.zeros(3)),
            r"float32 \[3, 2, 12\]; it must be float \[B, 12\]",
        ),
        (lambda net: net(torch.zeros(3, LATENT).long(), torch.zeros(3)), r"int64 \[3, 12\]"),
        (lambda net: net(torch.zeros(3, LATENT), torch.zeros(2)), r"t is float32 \[2\]; it must be float \[3\]"),
        (lambda net: net(torch.zeros(3, LATENT), torch.ones(3).long()), r"t is int64 \[3\]"),
        (lambda net: net(torch.zeros(3, LATENT), 0.5), "t is a float"),
        (lambda net: Condition(LATENT, time_dim=7), "time_dim is 7"),
        (lambda net: MLPSkipNet(LATENT, num_layers=1), "num_layers is 1"),
        (lambda net: TransformerNet(LATENT, d_model=16, num_heads=3), "num_heads 3 does not divide d_model 16"),
        (lambda net: TransformerNet(LATENT, num_tokens=0), "num_tokens is 0"),
    ],
)
def test_latent_denoiser_errors_name_valid_values(call, message) -> None:
    with pytest.raises(InputError, match=message):
        call(built("mlp"))


def test_performer_net_refuses_incompatible_sizes() -> None:
    with pytest.raises(ValueError, match="num_heads 3 does not divide d_model 16"):
        PerformerNet(LATENT, d_model=16, num_heads=3)
