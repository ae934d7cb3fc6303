"""Noise levels of tokens: 0 at given tokens in training, evaluation and sampling, and networks that cannot use them."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.denoisers.calling import DenoiserCallError
from model.denoisers.registry import BACKBONES, register_backbone
from model_factory.evaluation.metrics.bound import _row_parts
from model_factory.evaluation.settings import Settings
from model_factory.training.noise import mix_seed
from tests.model.test_bert import SMALL
from tests.model.test_diffusion_inputs import X_T, stirred
from tests.model.test_diffusion_model import LENGTH, build

MASK = torch.arange(LENGTH) < torch.tensor([[LENGTH], [LENGTH - 1]])
RESPONSE = torch.arange(LENGTH) >= torch.tensor([[3], [5]])
GIVEN = MASK & ~RESPONSE
NOISES = [("absorbing", "mdlm"), ("absorbing", "sedd"), ("uniform", "udlm"), ("uniform", "sedd"), ("hybrid", "gidd")]


class Told:
    """Record of the noise levels that a model's network is called with."""

    def __init__(self, model: Any) -> None:
        self.levels: list[Tensor] = []
        model.network.register_forward_pre_hook(self._record, with_kwargs=True)

    def _record(self, _: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.levels.append(named["sigma"])


@pytest.mark.parametrize(("process", "objective"), NOISES)
@pytest.mark.parametrize("schedule", ["loglinear", "geometric"])
def test_given_tokens_have_level_0_in_every_call(process: str, objective: str, schedule: str) -> None:
    model = stirred(process=process, objective=objective, schedule=schedule, time_conditioning=True)
    told = Told(model)
    keywords = {"response_mask": RESPONSE, "seed": mix_seed(3, 0)}
    output = model(X_T, MASK, **keywords)
    calls = len(told.levels)
    assert calls == 1 + (schedule == "geometric") + (process == "absorbing")  # t, and the ends that need the network
    loss = model.train()(X_T, MASK, **keywords).loss
    assert len(told.levels) == calls + 1
    loss.backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)
    model.eval()
    before = len(told.levels)
    noise = SimpleNamespace(place=torch.arange(2), batch_size=2)
    batch = {"input_ids": X_T, "attention_mask": MASK, "response_mask": RESPONSE, "noise": noise}
    parts = _row_parts(model, batch, Settings(seed=3, draws=1), 0)
    total = torch.stack(list(parts.values())).sum() / (MASK & RESPONSE).sum()
    if process == "absorbing":
        calls = 1  # by counts, without the ends
    else:
        torch.testing.assert_close(total.float(), output.loss)
    drawn = model.sample(2, steps=2, prompt=X_T, frozen=~RESPONSE, mask=MASK, sampler="ancestral")
    assert torch.equal(drawn[GIVEN], X_T[GIVEN])
    assert len(told.levels) == before + calls + 2
    for sigma in told.levels:
        if process == "absorbing":
            assert sigma.shape == (2,)
        else:
            assert torch.equal(sigma == 0, GIVEN)


@pytest.mark.parametrize(("process", "objective"), NOISES)
def test_without_given_tokens_the_level_is_that_of_the_row(process: str, objective: str) -> None:
    model = stirred(process=process, objective=objective, time_conditioning=True)
    told = Told(model)
    for given in ({}, {"response_mask": torch.ones_like(MASK)}, {"response_mask": MASK}):
        model(X_T, MASK, seed=3, **given)
    model.sample(2, steps=1, mask=MASK, sampler="ancestral")
    assert {tuple(sigma.shape) for sigma in told.levels} == {(2,)}


INJECTIONS = [{"time_injection": name} for name in ("adaln", "input")]


@pytest.mark.parametrize("backbone", ["ddit", "performer", *({**SMALL, **extra} for extra in INJECTIONS)])
def test_network_reads_which_tokens_are_given(backbone: Any) -> None:
    """Without it the same tokens give the same output, whether they are a prompt or noise."""
    model = stirred(process="uniform", objective="udlm", backbone=backbone)
    rows = torch.full((2,), 0.7)
    plain, told = model.denoise(X_T, rows), model.denoise(X_T, torch.where(GIVEN, 0.0, rows[:, None]))
    assert bool(((plain - told).abs().amax(-1)[RESPONSE] > 1e-4).all())
    torch.testing.assert_close(model.denoise(X_T, rows[:, None].expand(2, LENGTH)), plain)


def test_bert_that_adds_the_level_after_attention_is_refused() -> None:
    model = stirred(process="uniform", objective="udlm", backbone={**SMALL, "time_injection": "output"})
    model(X_T, MASK)
    with pytest.raises(
        DenoiserCallError, match="time_injection output adds the level after all attention, so no token"
    ):
        model(X_T, MASK, response_mask=RESPONSE)
    build(objective="mdlm", backbone={**SMALL, "time_injection": "output"})(X_T, MASK, response_mask=RESPONSE)


class Mixing(nn.Module):
    """Network in which every token sees all others; subclasses embed sigma."""

    def __init__(self, config: Any, vocab_size: int) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(vocab_size, 6), nn.Linear(6, vocab_size)
        self.time = nn.Linear(1, 6)
        self.calls = 0

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.calls += 1
        hidden = self.embed(x) + self.level(sigma)
        out: Tensor = self.out(torch.tanh(hidden + hidden.mean(1, keepdim=True)))
        return out

    def level(self, sigma: Tensor) -> Tensor:
        raise NotImplementedError


class Both(Mixing):
    def level(self, sigma: Tensor) -> Tensor:
        sigma = sigma[:, None] if sigma.dim() == 1 else sigma
        out: Tensor = self.time(sigma[..., None])
        return out


class RowsOnly(Mixing):
    """The embedding of [B, L] is [B, 1, L, 6], which broadcasts to a wrong shape."""

    def level(self, sigma: Tensor) -> Tensor:
        out: Tensor = self.time(sigma[..., None])[:, None]
        return out


class Broadcasting(Mixing):
    """SEDD's sinusoids: [B, L] fits where L is the number of frequencies, and gives each row a level of no meaning."""

    def __init__(self, config: Any, vocab_size: int) -> None:
        super().__init__(config, vocab_size)
        self.mix = nn.Linear(LENGTH, 6)

    def level(self, sigma: Tensor) -> Tensor:
        out: Tensor = self.mix(torch.cos(sigma[:, None] * torch.ones(1, LENGTH)).view(len(sigma), -1, LENGTH))
        return out


class Averaging(Mixing):
    def level(self, sigma: Tensor) -> Tensor:
        out: Tensor = self.time(sigma.reshape(len(sigma), -1).sum(1)[:, None, None])
        return out


class Late(Both):
    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        hidden = self.embed(x) + self.embed(x).mean(1, keepdim=True)
        out: Tensor = self.out(torch.tanh(hidden + self.level(sigma)))
        return out


class Closed(Both):
    """The part that mixes tokens is closed at first, so that the network cannot be tried: it is believed."""

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.calls += 1
        out: Tensor = self.out(torch.tanh(self.embed(x) + self.level(sigma)))
        return out


class FixedLength(Both):
    def level(self, sigma: Tensor) -> Tensor:
        return super().level(sigma) + torch.zeros(LENGTH, 6)


@pytest.fixture
def custom() -> Iterator[Any]:
    names: list[str] = []

    def build_with(network: type[nn.Module], process: str = "uniform", objective: str = "udlm", **facts: Any) -> Any:
        names.append(f"custom-{len(names)}")
        register_backbone(names[-1], **facts)(network)
        torch.manual_seed(0)
        return build(process=process, objective=objective, backbone={"type": names[-1]})

    yield build_with
    for name in names:
        BACKBONES._entries.pop(name)


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (
            RowsOnly,
            r"RowsOnly takes no noise level for each token, sigma \[B, L\]: its output is then \[2, 2, 8, 5\]",
        ),
        (Broadcasting, "Broadcasting takes no noise level .*: RuntimeError: The size of tensor a"),
        (Averaging, "equal levels of all tokens give another output"),
        (Late, "the level of a token changes its own output alone"),
        (FixedLength, "with rows of 4 tokens, to try it, RuntimeError"),
    ],
)
def test_custom_network_is_tried_and_refused(custom: Any, network: type[nn.Module], reason: str) -> None:
    model = custom(network)
    model(X_T, MASK).loss.backward()  # nothing is given
    for _ in range(2):  # the reason is remembered
        with pytest.raises(DenoiserCallError, match=reason):
            model(X_T, response_mask=RESPONSE)
        with pytest.raises(
            DenoiserCallError, match=r"Begin forward with .sigma = sigma.:, None. if sigma.dim.. == 1 else"
        ):
            model.sample(1, steps=2, prompt=X_T[0, :3])
    assert model.training
    model.sample(1, steps=2)
    custom(network, "absorbing", "sedd")(X_T, response_mask=RESPONSE).loss.backward()


@pytest.mark.parametrize("network", [Both, Closed])
def test_custom_network_with_levels_is_tried_once(custom: Any, network: type[nn.Module]) -> None:
    model = custom(network)
    model(X_T, response_mask=RESPONSE).loss.backward()
    tried = model.network.calls
    assert tried == 8
    model(X_T, response_mask=RESPONSE).loss.backward()
    assert model.network.calls == tried + 1
    assert model.sample(2, steps=2, prompt=X_T[:, :3]).shape == (2, LENGTH)


def test_registered_fact_is_trusted(custom: Any) -> None:
    model = custom(FixedLength, token_levels=True)
    model(X_T, response_mask=RESPONSE).loss.backward()
    assert model.network.calls == 1
    with pytest.raises(DenoiserCallError, match="is registered with token_levels=False: it takes one level for a row"):
        custom(Both, token_levels=False)(X_T, response_mask=RESPONSE)
