"""Custom networks in a diffusion model: called with the arguments that they accept, refused if one is missing."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.denoisers.calling import DenoiserCall, DenoiserCallError
from model.denoisers.registry import BACKBONES, register_backbone
from tests.model.test_diffusion_model import LENGTH, VOCAB, build, read, section


class Plain(nn.Module):
    """Network in the style of research code: no keyword arguments, a nested config."""

    def __init__(self, config: Any, vocab_size: int) -> None:
        super().__init__()
        width = config.model.hidden_size
        self.embed = nn.Embedding(vocab_size, width)
        self.position = nn.Parameter(torch.zeros(config.model.length, width))
        self.out = nn.Linear(width, vocab_size)
        self.time = nn.Linear(1, width) if config.algo.time_conditioning else None
        self.tied = config.model.get("tie_word_embeddings", False)

    def forward(self, x: Tensor, sigma: Tensor | None) -> Tensor:
        hidden = self.embed(x) + self.position[: x.shape[1]]
        if self.time is not None and sigma is not None:
            hidden = hidden + self.time(sigma[:, None])[:, None]
        out: Tensor = self.out(hidden)
        return out


class Grouped(Plain):
    def forward(self, x: Tensor, group_idxs: Tensor | None, sigma: Tensor | None) -> Tensor:  # type: ignore[override]
        assert group_idxs is None
        return super().forward(x, sigma)


@pytest.fixture
def registered():
    names = []

    def register(name: str, network: type[nn.Module]) -> None:
        register_backbone(name)(network)
        names.append(name)

    yield register
    for name in names:
        BACKBONES._entries.pop(name)


@pytest.mark.parametrize("network", [Plain, Grouped])
@pytest.mark.parametrize("time_conditioning", [True, False])
def test_custom_network_runs_unchanged(registered, network: type[nn.Module], time_conditioning: bool) -> None:
    registered("plain", network)
    model = build(backbone={"type": "plain", "hidden_size": 8}, time_conditioning=time_conditioning)
    model(torch.randint(VOCAB, (2, LENGTH))).loss.backward()
    assert model.sample(2, steps=2).shape == (2, LENGTH)
    assert (model.network.time is not None) is time_conditioning


class Timed(Plain):
    """Network that keeps its config, and requires sigma."""

    def __init__(self, config: Any, vocab_size: int) -> None:
        super().__init__(config, vocab_size)
        self.config = config
        self.time = nn.Linear(1, config.hidden_size)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:  # type: ignore[override]
        out: Tensor = self.out(self.embed(x) + self.time(sigma[:, None])[:, None])
        return out


@pytest.mark.parametrize("objective", ["sedd", "mdlm"])
def test_custom_network_gets_sigma_unless_config_disables_it(registered, objective: str) -> None:
    registered("timed", Timed)
    backbone = {"type": "timed", "hidden_size": 8}
    model = build(objective=objective, backbone=backbone)
    assert model.network.config.algo.time_conditioning is True
    model(torch.randint(VOCAB, (2, LENGTH))).loss.backward()
    assert model.sample(2, steps=2).shape == (2, LENGTH)
    assert (
        build(objective=objective, backbone=backbone, time_conditioning=False).diffusion_config.is_time_conditioned
        is False
    )


def test_custom_network_with_config_can_be_copied_and_pickled(registered) -> None:
    registered("timed", Timed)
    model = build(backbone={"type": "timed", "hidden_size": 8, "more": {"depth": 2}})
    again = copy.deepcopy(model)
    assert again.network.config == model.network.config
    config = pickle.loads(pickle.dumps(model.network.config))
    assert (config.hidden_size, config.model.length, config.more.depth) == (8, LENGTH, 2)
    assert {**config}["hidden_size"] == 8


@pytest.mark.parametrize(
    ("of_model", "of_backbone", "of_data", "expected"),
    [(8, None, 16, 8), (None, 6, 16, 6), (8, 6, 16, 8), (None, None, 16, 16), (None, None, None, None)],
)
def test_length_defaults_to_section_then_dataset(
    registered, of_model: int | None, of_backbone: int | None, of_data: int | None, expected: int | None
) -> None:
    registered("timed", Timed)
    length = {} if of_backbone is None else {"length": of_backbone}
    config, problems = read(section(backbone={"type": "timed", "hidden_size": 8, **length}, length=of_model))
    assert problems == []
    sized = config.config.sized(None, of_data)
    assert sized.backbone_values()["length"] == expected
    assert sized.sequence_length == expected


def test_custom_network_without_cond_is_refused(registered) -> None:
    registered("plain", Plain)
    with pytest.raises(DenoiserCallError, match="takes no 'cond'"):
        build(backbone={"type": "plain", "hidden_size": 8}, condition={"type": "class", "num_classes": 2})


def test_custom_network_without_sigma_is_refused() -> None:
    with pytest.raises(DenoiserCallError, match="has no sigma"):
        DenoiserCall(nn.Linear(2, 2))
