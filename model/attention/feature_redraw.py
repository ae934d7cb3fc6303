"""Reproducible draws and redraws of the random features of a stack (Choromanski et al. 2021, section 4.2).

The n-th draw of the i-th layer depends on (seed, i, n) alone: not on the device, the global generator, the rank of a
process or an interruption of training, since seed, n and the count of steps are in the state dict.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, Self, cast

import torch
from torch import Tensor, distributed, nn

from model.attention.feature_maps import RandomFeatures


def orthogonal_projections(nb_features: int, head_dim: int, seed: int, *, in_pairs: bool = False) -> Tensor:
    """Draw Gaussian rows [nb_features, head_dim] on the CPU from `seed`, orthogonal in blocks of head_dim.

    With `in_pairs` the second half of the rows is the first one negated (antithetic sampling). Raises ImportError if
    performer-pytorch lacks `distutils`; the message says what to install.
    """
    try:  # takes 1 s, so only models with random features import it
        from performer_pytorch.performer_pytorch import gaussian_orthogonal_random_matrix
    except ModuleNotFoundError as error:
        if error.name != "distutils":
            raise
        raise ImportError(
            "performer-pytorch imports distutils, which Python 3.12 lacks: pip install setuptools"
        ) from error
    with torch.random.fork_rng(devices=[]), _wide_default_dtype():
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the accelerators as well
        drawn = (nb_features + 1) // 2 if in_pairs else nb_features
        matrix: Tensor = gaussian_orthogonal_random_matrix(drawn, head_dim, device=torch.device("cpu"))
    return torch.cat([matrix, -matrix])[:nb_features] if in_pairs else matrix


@contextmanager
def _wide_default_dtype() -> Iterator[None]:
    """Draw in float32 where the default dtype is narrower, as while transformers loads in bfloat16: QR lacks those."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.promote_types(before, torch.float32))
    try:
        yield
    finally:
        torch.set_default_dtype(before)


# A custom operator is opaque to torch.compile, so the graph does not break where `state` is read, and it does nothing
# under FakeTensorMode and on the meta device, where performer-pytorch's QR fails. A CUDA graph must not capture it: its
# replay would count no steps.
@torch.library.custom_op(
    "model_factory::redraw_features",
    mutates_args=("projections", "state", "on_host"),
    tags=(torch.Tag.cudagraph_unsafe,),
)
def redraw_features(
    projections: list[Tensor], in_pairs: list[bool], state: Tensor, interval: int, on_host: Tensor | None = None
) -> None:
    """Count one step of `state` int64 [3] (seed, draws so far, steps since the last).

    It draws first if `interval` steps have passed. `in_pairs` has, for each of the projections [m, D], how to draw
    it. An interval of 0 draws now and counts no step. `on_host` int64 [4] is a copy of `state` on the CPU and whether
    it is one, so that the host does not wait for another device to read it.
    """
    seed, draws, steps = _counts(state, on_host)
    if steps >= interval:
        for index, (matrix, paired) in enumerate(zip(projections, in_pairs, strict=True)):
            mixed = Random(f"{seed}/{index}/{draws}").getrandbits(63)
            drawn = orthogonal_projections(matrix.shape[0], matrix.shape[1], mixed, in_pairs=paired)
            matrix.copy_(drawn, non_blocking=True)
        draws, steps = draws + 1, 0
        state[1:2].fill_(draws)
    steps += interval > 0
    state[2:].fill_(steps)
    if on_host is not None:
        on_host.copy_(torch.tensor([seed, draws, steps, 1]))


def _counts(state: Tensor, on_host: Tensor | None) -> list[int]:
    """Return seed, draws and steps, from the copy on the CPU if it is one."""
    if on_host is not None:
        *counts, is_copy = on_host.tolist()
        if is_copy:
            return counts
    return cast(list[int], state.tolist())


@redraw_features.register_fake
def _(
    projections: list[Tensor], in_pairs: list[bool], state: Tensor, interval: int, on_host: Tensor | None = None
) -> None:
    return None


def broadcast_seed() -> int:
    """Return the global generator's seed, with `torch.distributed` that of rank 0: all ranks need the same features."""
    seed = [torch.initial_seed() % 2**63]
    if distributed.is_available() and distributed.is_initialized():
        distributed.broadcast_object_list(seed, src=0)
    return seed[0]


class FeatureRedraw(nn.Module):
    """Draws of all random features inside `stack`; `state` int64 [3] is the seed, draws so far and steps since."""

    state: Tensor

    def __init__(self, stack: nn.Module, *, interval: int | None) -> None:
        super().__init__()
        self.interval = interval
        # A tuple is not registered as submodules: the maps already belong to the layers of the stack.
        self._maps = tuple(module for module in stack.modules() if isinstance(module, RandomFeatures))
        # A tuple also hides the copy on the CPU from `to`, the state dict and the buffers that processes exchange.
        self._on_host = (torch.zeros(4, dtype=torch.int64, device="cpu"),)
        self.register_buffer("state", torch.tensor([broadcast_seed(), 0, 0]))
        self.redraw()

    def redraw(self) -> None:
        """Draw new projections now and reset the count of steps."""
        self._run(interval=0)

    def count_step(self) -> None:
        """Count one training step; draw new projections every `interval` steps."""
        if self.interval is not None:
            self._run(interval=self.interval)

    def _run(self, interval: int) -> None:
        on_host = None if self.state.device.type == "cpu" else self._on_host[0]
        with torch.no_grad():
            projections = [features.projection_matrix for features in self._maps]
            redraw_features(projections, [features.in_pairs for features in self._maps], self.state, interval, on_host)

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        if self.state.device.type == "cpu":  # it may leave the CPU now, and is not read there
            self._on_host[0].copy_(torch.cat([self.state, torch.ones_like(self.state[:1])]))
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._on_host[0].zero_()  # `state` is read once
