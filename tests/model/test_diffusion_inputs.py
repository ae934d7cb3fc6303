"""Inputs of a diffusion model: noise levels per row and token, padding, conditions, and invalid arguments."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.denoisers.calling import BackboneError
from model.denoisers.registry import BACKBONES, register_backbone
from model.discrete.model import DiffusionModel
from model.transformer.inputs import InputError
from model_factory.diffusion.errors import (
    DiffusionInputError,
    LengthError,
    SettingError,
    ShapeError,
    SigmaError,
    TokenError,
)
from model_factory.diffusion.randomness import ROW_WIDTH, RowGenerators
from model_factory.diffusion.time_strata import stratified_times
from tests.model.test_diffusion_model import LENGTH, VOCAB, build

X_T = torch.randint(VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(0))
ROWS = torch.tensor([0.3, 2.0])


def stirred(**parts: Any) -> DiffusionModel:
    """Build a model with random adaLN and heads, whose zero initialisation would hide the effect of inputs."""
    model = build(**parts).eval()
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.3)
    return model


@pytest.mark.parametrize("backbone", ["ddit", "performer"])
def test_sigma_may_be_scalar_per_row_or_per_token(backbone: str) -> None:
    model = stirred(backbone=backbone, time_conditioning=True)
    rows = model.denoise(X_T, ROWS)
    torch.testing.assert_close(model.denoise(X_T, ROWS[:, None].expand(2, LENGTH)), rows)
    torch.testing.assert_close(model.denoise(X_T, 0.3)[0], rows[0])
    mixed = torch.where(torch.arange(LENGTH) < 4, 0.3, 2.0).expand(2, -1)
    assert not torch.allclose(model.denoise(X_T, mixed), rows)


@pytest.mark.parametrize("backbone", ["ddit", "performer"])
def test_padding_changes_nothing_at_real_tokens(backbone: str) -> None:
    model = stirred(backbone=backbone, time_conditioning=True)
    mask = torch.arange(LENGTH) < torch.tensor([[LENGTH], [5]])
    other = torch.where(mask, X_T, (X_T + 1) % VOCAB)
    first, second = (model.denoise(tokens, ROWS, mask=mask)[mask] for tokens in (X_T, other))
    torch.testing.assert_close(first, second)
    assert not torch.allclose(first, model.denoise(X_T, ROWS)[mask])


@pytest.mark.parametrize("backbone", ["ddit", "performer"])
@pytest.mark.parametrize("kind", ["class", "properties"])
def test_conditions_are_applied_per_row(backbone: str, kind: str) -> None:
    size = {"num_classes": 3} if kind == "class" else {"size": 2}
    model = stirred(backbone=backbone, condition={"type": kind, **size})
    cond = torch.tensor([0, 2]) if kind == "class" else torch.tensor([[0.1, 0.2], [3.0, -1.0]])
    nothing = torch.full_like(cond, 3 if kind == "class" else torch.nan)
    passed, silent = model.denoise(X_T, ROWS, cond=cond), model.denoise(X_T, ROWS)
    torch.testing.assert_close(model.denoise(X_T, ROWS, cond=nothing), silent)
    torch.testing.assert_close(model.denoise(X_T[1:], ROWS[1:], cond=cond[1:]), passed[1:])
    assert not torch.allclose(passed, silent)


def test_network_without_time_conditioning_needs_no_sigma() -> None:
    model = build().eval()
    assert torch.equal(model.denoise(X_T, None), model.denoise(X_T, ROWS))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("process", "objective"), [("absorbing", "mdlm"), ("absorbing", "sedd"), ("uniform", "sedd"), ("uniform", "udlm")]
)
def test_uniform_weighting_keeps_the_bound(process: str, objective: str, training: bool) -> None:
    """Uniform weighting gives cross-entropy at masks, or score entropy times exp(sigma) - 1, at the bound's noise."""
    model = stirred(process=process, objective=objective, schedule="cosine").train(training)
    mask = torch.arange(LENGTH) < torch.tensor([[LENGTH], [5]])
    bound, alike = (model(X_T, mask, seed=5, loss_weighting=name) for name in ("bound", "uniform"))
    torch.testing.assert_close(bound[1:], alike[1:])
    torch.testing.assert_close(bound.loss, torch.stack(bound[1:]).sum())

    rows = torch.arange(2)
    sigma = model.process.schedule.sigma(stratified_times(rows, 2, 5))
    x_t = model.process.corrupt_at(X_T, sigma, RowGenerators.from_seed(6, rows, ROW_WIDTH), ~mask)
    output, graph = model.denoise(x_t, sigma, mask=mask), model.process.graph
    if objective == "mdlm":
        logits = output[..., :VOCAB].double().transpose(1, 2)
        terms = nn.functional.cross_entropy(logits, X_T, reduction="none") * (x_t == VOCAB)
    else:
        log_score = model.objective.parameterisation.log_score(output, x_t, sigma)
        terms = graph.score_entropy(log_score, sigma, x_t, X_T) * torch.expm1(sigma)[:, None]
    torch.testing.assert_close(alike.loss.double(), terms[mask].mean(), rtol=1e-5, atol=1e-6)


BAD: list[tuple[Callable[[DiffusionModel], Tensor], type[ValueError], str]] = [
    (lambda m: m.denoise(X_T + 9, ROWS), TokenError, "x_t: got token 13; expected ids from 0 to 5"),
    (lambda m: m.denoise(X_T - 9, ROWS), TokenError, "x_t: got token -9"),
    (lambda m: m.denoise(X_T.float(), ROWS), ShapeError, r"x_t: got float32 \[2, 8\]; expected int \[B, L\]"),
    (lambda m: m.denoise(X_T[0], ROWS), ShapeError, r"x_t: got int64 \[8\]"),
    (lambda m: m.denoise(X_T, ROWS / 0), SigmaError, "sigma: got inf; expected a finite number, 0 or more"),
    (lambda m: m.denoise(X_T, ROWS * torch.nan), SigmaError, "sigma: got nan"),
    (lambda m: m.denoise(X_T, -1.0), SigmaError, "sigma: got -1.0"),
    (lambda m: m.denoise(X_T, None), SigmaError, "sigma: got None; expected the noise level"),
    (lambda m: m.denoise(X_T, torch.ones(3)), ShapeError, r"sigma: got float32 \[3\]; expected \[2\], one per row, or"),
    (
        lambda m: m.denoise(X_T, ROWS, mask=X_T),
        InputError,
        r"mask must be bool \[2, 8\], True at real tokens; got int64 \[2, 8\]",
    ),
    (lambda m: m.denoise(X_T, ROWS, cond=torch.tensor([0, 4])), TokenError, "cond: got class 4; expected classes from"),
    (lambda m: m.denoise(X_T, ROWS, cond=torch.tensor([0])), LengthError, "cond: got 1 rows; expected 2"),
    (lambda m: m.denoise(X_T, ROWS, cond=ROWS), ShapeError, r"cond: got float32 \[2\]; expected int \[2\]"),
    (lambda m: m(X_T, cond=torch.tensor([0, -1])).loss, TokenError, "cond: got class -1"),
    (lambda m: m(X_T[:0]).loss, InputError, "expected at least one row of one token"),
    (lambda m: m(X_T - 1).loss, TokenError, "input_ids: got token -1"),
    (lambda m: m(X_T, rows=torch.arange(3)).loss, ShapeError, r"rows: got shape \[3\]; expected \[2\]"),
    (
        lambda m: m(X_T, loss_weighting="unifrom").loss,
        InputError,
        "loss_weighting is 'unifrom'; expected bound or uniform",
    ),
    (lambda m: m.sample(2, cond=torch.tensor([0, 9])), TokenError, "cond: got class 9"),
    (lambda m: m.sample(1, 0), SettingError, "length: got 0"),
    (lambda m: m.sample(1, 2.5), SettingError, "length: got 2.5"),
    (lambda m: m.sample(1, steps=2.5), DiffusionInputError, "steps: got 2.5; expected a whole number"),
    (lambda m: m.sample(1, prompt=[1, 2]), ShapeError, "prompt: got a list; expected a tensor"),
]


@pytest.mark.parametrize(("use", "error", "message"), BAD)
def test_bad_input_is_named(use: Callable[[DiffusionModel], Tensor], error: type[ValueError], message: str) -> None:
    model = build(time_conditioning=True, condition={"type": "class", "num_classes": 3})
    with pytest.raises(error, match=message):
        use(model)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_tokens_may_have_any_integer_dtype(dtype: torch.dtype) -> None:
    model = build(time_conditioning=True).eval()
    assert torch.equal(model(X_T.to(dtype), seed=0).loss, model(X_T, seed=0).loss)
    assert torch.equal(model.denoise(X_T.to(dtype), ROWS), model.denoise(X_T, ROWS))


def test_properties_must_match_size() -> None:
    model = build(condition={"type": "properties", "size": 2})
    for wrong in (torch.rand(2), torch.rand(2, 3), torch.ones(2, 2, dtype=torch.long)):
        with pytest.raises(ShapeError, match=r"cond: got .*; expected float \[2, 2\]"):
            model(X_T, cond=wrong)


@pytest.mark.parametrize(
    "cond", [torch.tensor([True, False]), torch.tensor([1j, 0j]), torch.tensor([0.5, 1.0])], ids=str
)
def test_classes_are_integers(cond: Tensor) -> None:
    model = build(condition={"type": "class", "num_classes": 2})
    for use in (lambda: model.sample(2, steps=2, cond=cond), lambda: model(X_T, cond=cond)):
        with pytest.raises(ShapeError, match=r"cond: got (bool|complex64|float32) \[2\]; expected int \[2\]"):
            use()


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64, torch.float32], ids=str)
def test_token_ids_are_integers(dtype: torch.dtype) -> None:
    model = build(time_conditioning=True)
    with pytest.raises(
        InputError, match=r"input_ids is .* \[2, 12\]; expected int \[B, L\]".replace("12", str(LENGTH))
    ):
        model(X_T.to(dtype))
    with pytest.raises(ShapeError, match="x_t"):
        model.denoise(X_T.to(dtype), ROWS)


def test_unfit_sampler_error_lists_fitting_ones() -> None:
    with pytest.raises(DiffusionInputError, match=r"here .*ancestral.* fit"):
        build(process="uniform", objective="udlm").sample(1, sampler="first_hitting")


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        (
            lambda config, dim: nn.Linear(config.width, dim),
            r"AttributeError at test_diffusion_inputs.py:\d+: .*'width'",
        ),
        (lambda config, dim: nn.Linear("wide", dim), r"'odd' cannot be built: TypeError"),
        (lambda config, dim: "network", "'odd': its builder returned a str; it must return an nn.Module"),
    ],
)
def test_failing_builder_names_location(builder: Callable[..., Any], message: str) -> None:
    register_backbone("odd")(builder)
    try:
        with pytest.raises(BackboneError, match=message):
            build(backbone={"type": "odd", "widht": 3})
    finally:
        BACKBONES._entries.pop("odd")
