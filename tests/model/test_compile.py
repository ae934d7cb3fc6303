"""torch.compile with `fullgraph=True`: no combination that a config can express breaks the graph."""

import copy
import random
from itertools import product

import pytest
import torch

from model.activations import ActivationFunctions
from tests.model import tiny

CHOICES = {
    "role": ["encoder", "decoder", "with_context", "encoder_decoder"],
    "attention_type": ["softmax", "linear", "mixed"],
    "feature_map": ["favor+", "favor++", "favor#", "relu", "elu"],
    "feature_redraw_interval": [None, 1],
    "training": [True, False],
    "norm": ["layernorm", "scalenorm", "rezero"],
    "activation": list(ActivationFunctions),
    "position": ["rotary", "absolute", "none"],
    "qk_norm": [False, True],
    "num_kv_heads": [None, 1],
    "tie_embeddings": [True, False],
    "input": ["ids", "floats", "projected"],
    "mask": [False, True],
}


def pairs_of(cell):
    return {(one, other) for one, other in product(cell.items(), repeat=2) if one[0] < other[0]}


def cells():
    """Return combinations in which every two choices occur together at least once."""
    rng = random.Random(0)
    missing = set()
    for names in product(CHOICES, repeat=2):
        if names[0] < names[1]:
            missing |= {tuple(zip(names, pair, strict=True)) for pair in product(*map(CHOICES.get, names))}
    while missing:
        tried = [{name: rng.choice(values) for name, values in CHOICES.items()} for _ in range(200)]
        best = max(tried, key=lambda cell: len(missing & pairs_of(cell)))
        missing -= pairs_of(best)
        yield best


def built(role, training, **choices):
    return stack_of(role, **choices).train(training)


def stack_of(role, attention_type, norm, input, mask, **changes):
    linear = "linear" if role == "encoder" else "causal_linear"
    types = {"softmax": "softmax", "linear": linear, "mixed": [linear, "softmax"]}
    changes |= {"attention_type": types[attention_type], "max_length": 80, **tiny.norm_of(norm)}
    changes["num_layers"] = 2 if attention_type == "mixed" else 1
    changes |= {"ids": {"vocab_size": tiny.VOCAB}, "floats": {}, "projected": {"input_dim": 5}}[input]
    if role == "encoder_decoder":
        encoder = {**changes, "attention_type": "softmax" if attention_type == "softmax" else "linear"}
        return tiny.EncoderDecoderTransformer(tiny.params(**encoder), tiny.params(**changes))
    if role == "encoder":
        return tiny.PerformerEncoder(tiny.params(**changes))
    return tiny.PerformerDecoder(tiny.params(**changes, use_cross_attention=role == "with_context"))


def inputs(role, input, mask, **_):
    x = torch.randint(tiny.VOCAB, (2, 70)) if input == "ids" else torch.randn(2, 70, 16 if input == "floats" else 5)
    seen = tiny.lengths_mask([70, 41], 70) if mask else None
    if role == "encoder_decoder":
        return {"source": x, "target": x, "source_mask": seen, "target_mask": seen}
    context = {"context": torch.randn(2, 9, 16)} if role == "with_context" else {}
    return {"x": x, "mask": seen, **context}


CELLS = list(cells())


def compiled(model, backend):
    torch._dynamo.reset()
    return torch.compile(model, backend=backend, fullgraph=True)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: " ".join(map(str, cell.values())))
def test_compile_makes_one_graph(cell):
    torch.manual_seed(0)
    model, given = built(**cell), inputs(**cell)
    twin, one_graph = copy.deepcopy(model), compiled(model, "eager")
    for _ in range(2):  # the second step redraws the features, after the first has updated their moments
        assert tiny.gap(one_graph(**given), twin(**given)) < 1e-5
    for name, value in model.state_dict().items():
        assert torch.allclose(value, twin.state_dict()[name], atol=1e-6), name


@pytest.mark.parametrize("cell", CELLS[::6], ids=lambda cell: " ".join(map(str, cell.values())))
def test_compile_forward_and_backward_in_one_graph(cell):
    torch.manual_seed(0)
    model, given = built(**cell), inputs(**cell)
    twin = copy.deepcopy(model)
    for step in (compiled(model, "aot_eager"), twin):
        step(**given).square().sum().backward()
    first, wanted = next(model.parameters()), next(twin.parameters())
    assert tiny.gap(first.grad, wanted.grad) < 1e-4
