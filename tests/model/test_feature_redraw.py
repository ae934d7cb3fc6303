"""Redraws of random features: when they happen, and that they are reproducible."""

import pytest
import torch

from tests.model import tiny

X = torch.zeros(1, 3, 16)


def projections(model):
    return [tensor.clone() for name, tensor in model.named_buffers() if name.endswith("projection_matrix")]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def model_of(**changes):
    return tiny.decoder(attention_type="causal_linear", **changes).train()


def changes_over(model, steps):
    seen = []
    for _ in range(steps):
        before = projections(model)
        model(X)
        seen.append(not same(before, projections(model)))
    return seen


def test_redraw_after_each_interval():
    assert changes_over(model_of(feature_redraw_interval=3), 8) == [False] * 3 + [True, False, False, True, False]


@pytest.mark.parametrize("changes", [{"auto_check_redraw": False}, {"feature_redraw_interval": None}])
def test_redraw_disabled(changes):
    model = model_of(**{"feature_redraw_interval": 1, **changes})
    before = projections(model)
    assert not any(changes_over(model, 3))
    model.redraw_projections()
    assert not any(torch.equal(a, b) for a, b in zip(before, projections(model), strict=True))


def test_no_redraw_in_evaluation():
    assert not any(changes_over(model_of(feature_redraw_interval=1).eval(), 3))


def test_redraw_depends_only_on_seed_layer_and_count():
    torch.manual_seed(7)
    first = model_of(feature_redraw_interval=2)
    torch.manual_seed(7)
    second = model_of(feature_redraw_interval=2)
    one, other = projections(first)
    assert not torch.equal(one, other)
    changes_over(first, 3)
    torch.rand(5)  # the global generator has no influence
    changes_over(second, 3)
    assert same(projections(first), projections(second))
    torch.manual_seed(8)
    assert not same(projections(model_of()), [one, other])


def test_redraw_keeps_the_global_generator():
    model = model_of()
    state = torch.get_rng_state()
    model.redraw_projections()
    assert torch.equal(torch.get_rng_state(), state)


def test_redraw_after_resume_is_the_same():
    model, resumed = model_of(feature_redraw_interval=3), model_of(feature_redraw_interval=3)
    changes_over(model, 2)
    resumed.load_state_dict(model.state_dict())
    assert changes_over(resumed, 3) == changes_over(model, 3) == [False, True, False]
    assert same(projections(model), projections(resumed))


def test_redraw_between_forward_and_backward():
    model = model_of(feature_redraw_interval=1)
    x = torch.randn(1, 5, 16)
    (model(x).sum() + model(x).sum()).backward()


def test_projection_rows_are_orthogonal_in_blocks():
    matrix = projections(tiny.encoder(attention_type="linear", nb_features=12))[0]  # [12, 8]
    for block in (matrix[:8], matrix[8:]):
        gram = block @ block.T
        assert torch.allclose(gram, gram.diagonal().diag(), atol=1e-4)


def test_redraw_breaks_no_graph():
    torch._dynamo.reset()
    model = model_of(feature_redraw_interval=2)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x = torch.randn(1, 5, 16)
    before = projections(model)
    compiled(x), compiled(x)
    assert same(before, projections(model))
    compiled(x).sum().backward()
    assert not same(before, projections(model))


def draws_of_a_rank(rank, address, folder):
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    torch.manual_seed(rank)
    model = model_of(feature_redraw_interval=1)
    changes_over(model, 2)
    torch.save(projections(model), f"{folder}/{rank}")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_redraw_is_equal_on_all_ranks(tmp_path):
    address = f"file://{tmp_path}/rendezvous"
    torch.multiprocessing.spawn(draws_of_a_rank, args=(address, str(tmp_path)), nprocs=2)
    assert same(*(torch.load(tmp_path / rank, weights_only=True) for rank in "01"))
