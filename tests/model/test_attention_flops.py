"""FLOP counts of the operator against a count of the matrix products that run."""

import pytest
import torch
from torch.overrides import TorchFunctionMode

from model.attention.chunked import run
from model.attention.chunked.features import Kernel
from model.attention.chunked.flops import backward_flops, forward_flops
from model.attention.chunked.inputs import Inputs
from tests.model.test_attention_core import linear_core


class Products(TorchFunctionMode):
    """Counter of two FLOPs for each multiplication of a batched matrix product, in place or not."""

    flops = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func.__name__ in ("bmm", "baddbmm", "baddbmm_"):
            left, right = args[-2:]
            self.flops += 2 * left.numel() * right.shape[-1]
        return func(*args, **(kwargs or {}))


def counted(work) -> int:
    with Products() as products:
        work()
    return products.flops


def shape(x: torch.Tensor | None) -> tuple[int, ...] | None:
    return None if x is None else tuple(x.shape)


@pytest.mark.parametrize("name", ["relu", "identity"])
@pytest.mark.parametrize(("causal", "queries", "keys"), [(True, 150, 150), (True, 64, 64), (False, 70, 33)])
def test_flops_equal_the_matrix_products_that_run(name: str, causal: bool, queries: int, keys: int) -> None:
    kernel = Kernel("identity") if name == "identity" else linear_core(name).features.kernel()
    q, k, v = (torch.rand(2, 2, n, width) + 0.1 for n, width in ((queries, 8), (keys, 8), (keys, 5)))
    inputs = Inputs(q, k, v, None, None, kernel)
    results = run.forward(inputs, is_causal=causal, keep=True)
    out, denominators, kept = results
    rest = (None, None, *(shape(part) for part in kernel[1:]), kernel.kind, causal)
    forward = counted(lambda: run.forward(inputs, is_causal=causal, keep=False))
    assert forward_flops(shape(q), shape(k), shape(v), *rest) == forward
    gradient = torch.ones_like(out)
    backward = counted(lambda: run.backward(inputs, gradient, out, denominators, kept, is_causal=causal))
    assert backward_flops(shape(out), [], shape(q), shape(k), shape(v), *rest) == backward
