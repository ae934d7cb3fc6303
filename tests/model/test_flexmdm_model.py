"""A diffusion model that inserts tokens: networks with an anchor, batches, refusals in a file."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.denoisers.calling import AnchoredCall, DenoiserCallError
from model.discrete.model import DiffusionModel
from model.model_factory import create_model
from model.transformer.inputs import InputError
from model_factory.diffusion.errors import TokenError
from tests.model.test_diffusion_model import BACKBONE, LENGTH, VOCAB, build, read, section

BERT = {"type": "bert", "hidden_size": 16, "num_layers": 1, "num_heads": 2, "max_length": LENGTH + 1, "dropout": 0.0}
BACKBONES: list[Any] = ["ddit", {**BACKBONE["performer"], "dropout": 0.0}, BERT]
SIZES = torch.tensor([8, 5, 3, 1])


def flexmdm(backbone: Any = "ddit") -> DiffusionModel:
    """Build a model whose outputs depend on its inputs: heads and adaLN are zero at first."""
    model = build(objective="flexmdm", backbone=backbone)
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.3)
    return model


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(VOCAB, (4, LENGTH), generator=generator), torch.arange(LENGTH) < SIZES[:, None]


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda one: one if isinstance(one, str) else one["type"])
def test_loss_does_not_depend_on_padding_or_split(backbone: Any) -> None:
    model, (tokens, mask) = flexmdm(backbone), batch()
    for training in (False, True):
        model.train(training)
        options: dict[str, Any] = {"batch_size": 4, "seed": 3}
        whole = model(torch.where(mask, tokens, -100), mask, **options).loss
        nats = [
            model(tokens[row : row + 1, :size], rows=torch.tensor([row]), **options).loss * size
            for row, size in enumerate(SIZES.tolist())
        ]
        torch.testing.assert_close(torch.stack(nats).sum() / SIZES.sum(), whole, rtol=1e-5, atol=1e-6)


def test_first_and_last_token_are_given_and_cost_nothing() -> None:
    model, (tokens, mask) = flexmdm().eval(), batch()
    ends = mask & ~(mask.roll(1, 1) & mask.roll(-1, 1))
    ends[0, [0, -1]] = True
    ends[:, 0] = True
    other = torch.where(ends, (tokens + 1) % VOCAB, tokens)
    assert model(other, mask, seed=0).loss == model(tokens, mask, seed=0).loss
    inside = torch.where(mask & ~ends, (tokens + 1) % VOCAB, tokens)
    assert model(inside, mask, seed=0).loss != model(tokens, mask, seed=0).loss


def test_training_loss_has_cross_entropy_of_gaps_and_evaluation_the_bound() -> None:
    model, (tokens, mask) = flexmdm(), batch()
    training, evaluation = (model.train(mode)(tokens, mask, seed=0) for mode in (True, False))
    torch.testing.assert_close(training.diffusion, evaluation.diffusion)
    assert evaluation.loss == evaluation.diffusion  # no prior and no reconstruction
    assert training.loss != training.diffusion
    uniform = model.train()(tokens, mask, seed=0, loss_weighting="uniform")
    assert uniform.diffusion == training.diffusion
    assert uniform.loss != training.loss


def test_network_sees_rows_behind_an_anchor_without_padding() -> None:
    class Recorder(nn.Module):
        def forward(self, x_t: Tensor, sigma: Tensor, mask: Tensor) -> Tensor:
            self.seen = x_t, sigma, mask
            return x_t

    network, x_t = Recorder(), torch.tensor([[3, 1, -1], [2, 0, 4]])
    output = AnchoredCall(network, 6)(x_t, torch.zeros(2, 3), mask=torch.zeros(2, 3, dtype=torch.bool))
    assert output.tolist() == [[6, 3, 1, 0], [6, 2, 0, 4]]
    assert network.seen[1].shape == (2, 4)
    assert network.seen[2].tolist() == [[True, True, True, False], [True] * 4]
    with pytest.raises(DenoiserCallError, match="takes no 'mask'"):
        AnchoredCall(_NoMask(), 6)


class _NoMask(nn.Module):
    def forward(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        return x_t


@pytest.mark.parametrize("sampler", ["insertion", "thinned_insertion"])
def test_samples_have_lengths_of_their_own_and_do_not_depend_on_the_batch(sampler: str) -> None:
    model = flexmdm().double()
    draws = [
        model.sample(12, steps=8, sampler=sampler, generator=torch.Generator().manual_seed(1), batch_size=size)
        for size in (None, 5)
    ]
    assert torch.equal(*draws)
    there = draws[0] >= 0
    assert len(set(there.sum(1).tolist())) > 2
    assert bool((there[:, 1:] <= there[:, :-1]).all())  # nothing stands after the end
    state = model.draw(2, steps=8, sampler=sampler)
    assert state.network_calls.tolist() == [8, 8]


def test_expected_gaps_take_one_output_and_any_length() -> None:
    data = section(objective="flexmdm")
    del data["length"]
    config, problems = read(data)
    assert problems == []
    with pytest.raises(ValueError, match="set length in the model's section or sequence_length in the data set"):
        create_model(config)
    data["objective"]["gaps"] = "expected"
    model = create_model(read(data)[0])
    assert isinstance(model, DiffusionModel)
    assert model.width == VOCAB + 2
    assert model.train()(*batch()).loss.isfinite()
    assert model.denoise(torch.tensor([[1, -1]]), 0.5).shape == (1, 3, VOCAB + 2)
    with pytest.raises(TokenError):
        model.denoise(torch.tensor([[1, VOCAB + 1]]), 0.5)
    with pytest.raises(InputError, match="no documents, no response_mask"):
        model(*batch(), response_mask=batch()[1])


@pytest.mark.parametrize(
    ("change", "path", "words"),
    [
        ({"time_conditioning": False}, "model.time_conditioning", "the tokens that are there do not tell it"),
        ({"process": "uniform"}, "model.objective.type", "is defined for absorbing noise"),
        ({"process": "hybrid"}, "model.objective.type", "is defined for absorbing noise"),
        ({"backbone": {"type": "hugging_face", "path": "gpt2"}}, "model.backbone.type", "of a pretrained vocabulary"),
    ],
    ids=str,
)
def test_unfit_sections_are_refused_at_their_line(change: dict[str, Any], path: str, words: str) -> None:
    _, problems = read(section(objective="flexmdm", **change))
    assert len(problems) == 1
    assert f": {path}: " in problems[0]
    assert words in problems[0]
