"""Activation checkpointing: gradients and states are those without it, bit for bit, with dropout."""

import copy

import pytest
import torch
from torch import nn

from model.activation_checkpointing import (
    MATRIX_PRODUCTS,
    CheckpointedLayer,
    CheckpointingError,
    checkpoint_activations,
    find_layers,
)
from model.discrete.model import DiffusionModel
from tests.model import shipped

SECTIONS = shipped.sections(dropout=0.1)
LINEAR = {**shipped.SIZES, "vocab_size": shipped.VOCAB, "attention_type": "linear", "dropout": 0.1}
ROTARY = {**shipped.BERT, "dropout": 0.1, "position": "rotary"}
DOCUMENTS = torch.arange(shipped.LENGTH).div(5, rounding_mode="floor").expand(shipped.ROWS, -1)
BD3LM = {**shipped.MDLM, "objective": {"type": "bd3lm", "block_size": 4}}
STATEFUL = {
    "favor++ observes": {"model_type": "encoder", "encoder": {**LINEAR, "feature_map": "favor++"}},
    "features redrawn": {"model_type": "encoder", "encoder": {**LINEAR, "feature_redraw_interval": 2}},
    "ddit of blocks": {**BD3LM, "backbone": {"type": "ddit", **shipped.SIZES, "dropout": 0.1}},
    "hugging_face of blocks": {**BD3LM, "backbone": {**shipped.HUGGING_FACE, "shift": False}},
}
READING = {"context_ids": shipped.tokens().flip(0)}
GIVEN = {
    "bert of documents": ({**shipped.MDLM, "backbone": ROTARY}, {"documents": DOCUMENTS}),
    "ddit with source": ({**shipped.MDLM, "backbone": {"type": "ddit", **shipped.SIZES, **shipped.SOURCE}}, READING),
    "hugging_face with source": ({**shipped.MDLM, "backbone": {**shipped.HUGGING_FACE, **shipped.SOURCE}}, READING),
}
CASES = {**{name: (section, {}) for name, section in {**SECTIONS, **STATEFUL}.items()}, **GIVEN}


def train(model, section, more):
    """Take three steps of SGD; return the gradients of each, and all weights and buffers after them."""
    found = []
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.manual_seed(7)
    for _ in range(3):
        model.zero_grad()
        shipped.loss_of(model, section, **more).backward()
        found.append(shipped.gradients(model))
        optimiser.step()
    return [*found, *model.state_dict().values()]


@pytest.mark.parametrize("name", list(CASES))
def test_checkpointed_gradients_are_bit_equal(name, tmp_path):
    section, more = CASES[name]
    model = shipped.build(section, tmp_path)
    names = list(model.state_dict())
    plain = train(copy.deepcopy(model), section, more)
    for kind in ("selective", "full"):
        checkpointed = copy.deepcopy(model)
        assert checkpoint_activations(checkpointed, kind) > 0
        assert list(checkpointed.state_dict()) == names
        assert all(torch.equal(*pair) for pair in zip(train(checkpointed, section, more), plain, strict=True))


def saved_by(model, section):
    """Return the number of elements that autograd keeps in one forward pass, without weights."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(x):
        if x.untyped_storage().data_ptr() not in weights:
            kept[x.untyped_storage().data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        shipped.loss_of(model, section)
    return sum(x.numel() for x in kept.values())


@pytest.mark.parametrize(
    "name", ["encoder softmax", "ddit with time", "bert adaln with time", "hugging_face with time"]
)
def test_full_keeps_less_than_selective(name, tmp_path):
    section = SECTIONS[name]
    kept = {}
    for kind in ("none", "full"):
        model = shipped.build(section, tmp_path)
        checkpoint_activations(model, kind)
        kept[kind] = saved_by(model, section)
    assert kept["full"] < 0.5 * kept["none"]


def test_selective_repeats_no_matrix_product(tmp_path):
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            products.append(func in MATRIX_PRODUCTS)
            return func(*args, **(kwargs or {}))

    counts = {}
    for kind in ("none", "selective", "full"):
        model, products = shipped.build(SECTIONS["ddit with time"], tmp_path), []
        checkpoint_activations(model, kind)
        with Count():
            shipped.loss_of(model, SECTIONS["ddit with time"]).backward()
        counts[kind] = sum(products)
    assert counts["none"] == counts["selective"] < counts["full"]


def test_features_are_redrawn_once_a_step(tmp_path):
    section = {"model_type": "encoder", "encoder": {**LINEAR, "feature_redraw_interval": 1}}
    model = shipped.build(section, tmp_path)
    checkpoint_activations(model, "full")
    before = model.feature_redraw.state.tolist()
    for step in range(1, 4):
        shipped.loss_of(model, section).backward()
        assert model.feature_redraw.state[1] == before[1] + step - (1 if before[2] < 1 else 0)


def test_two_calls_before_backward_have_their_own_positions(tmp_path):
    section = {**shipped.MDLM, "backbone": {**ROTARY, "dropout": 0.0}}
    model = shipped.build(section, tmp_path)
    assert isinstance(model, DiffusionModel)

    def losses():
        return shipped.loss_of(model, section, documents=DOCUMENTS) + 2 * shipped.loss_of(model, section)

    losses().backward()
    plain = shipped.gradients(model)
    model.zero_grad()
    checkpoint_activations(model, "full")
    losses().backward()
    assert torch.equal(shipped.gradients(model), plain)


def test_evaluation_and_sampling_repeat_nothing(tmp_path):
    model = shipped.build(SECTIONS["decoder softmax"], tmp_path).eval()
    ids = shipped.tokens()
    plain = model(ids), model.generate(ids[:, :4], 3, temperature=0.0)
    checkpoint_activations(model, "full")
    assert torch.equal(model(ids), plain[0])
    assert torch.equal(model.generate(ids[:, :4], 3, temperature=0.0), plain[1])


def test_layers_are_modules_with_parts():
    network = nn.Module()
    inner = nn.Sequential(nn.Linear(2, 2), nn.ModuleList([nn.Sequential(nn.ReLU())]))
    network.layers = nn.ModuleList([inner, nn.Linear(2, 2), nn.Embedding(2, 2)])
    assert list(find_layers(network, outermost=True)) == [inner]
    assert list(find_layers(network)) == [inner, inner[1][0]]


def test_networks_without_layers_are_refused():
    with pytest.raises(CheckpointingError, match="the network Linear has no layers in a ModuleList"):
        checkpoint_activations(nn.Linear(2, 2), "full")
    assert checkpoint_activations(nn.Linear(2, 2), "none") == 0


def test_layers_with_running_statistics_are_left_alone():
    network = nn.Module()
    network.layers = nn.ModuleList([nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), nn.Sequential(nn.Linear(2, 2))])
    assert checkpoint_activations(network, "full") == 1
    assert [isinstance(layer, CheckpointedLayer) for layer in network.layers] == [False, True]
