"""Drawing and redrawing of the random features of a stack (Choromanski et al. 2021, section 4.2), reproducibly.

The n-th draw of the i-th layer depends on (seed, i, n) alone: not on the device, not on the global generator, not on
the rank of a process, and not on whether training was interrupted, since seed, n and the count of steps are in the
state dict.
"""

from random import Random

import torch
from torch import Tensor, distributed, nn

from model.feature_base import RandomFeatures


def orthogonal_projections(nb_features: int, head_dim: int, seed: int, *, in_pairs: bool = False) -> Tensor:
    """Gaussian rows [nb_features, head_dim] on the CPU, orthogonal in blocks of head_dim, drawn from `seed`.

    With `in_pairs` the second half of the rows is the first one negated (antithetic sampling). Raises ImportError where
    performer-pytorch lacks `distutils`, with what to install.
    """
    try:  # 1 s of imports, paid only by models with random features
        from performer_pytorch.performer_pytorch import gaussian_orthogonal_random_matrix
    except ModuleNotFoundError as error:
        if error.name != "distutils":
            raise
        raise ImportError("performer-pytorch imports distutils, gone in Python 3.12: pip install setuptools") from error
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the accelerators as well
        drawn = (nb_features + 1) // 2 if in_pairs else nb_features
        matrix: Tensor = gaussian_orthogonal_random_matrix(drawn, head_dim, device=torch.device("cpu"))
    return torch.cat([matrix, -matrix])[:nb_features] if in_pairs else matrix


# An operator of its own is opaque to torch.compile, whose graph then does not break at the look into `state`, and
# does nothing under FakeTensorMode and on the meta device, where performer-pytorch's QR fails.
@torch.library.custom_op("model_factory::redraw_features", mutates_args=("projections", "state"))
def redraw_features(projections: list[Tensor], in_pairs: list[bool], state: Tensor, interval: int) -> None:
    """Count one step of `state` int64 [3] (seed, draws so far, steps since the last).

    It draws first when `interval` are past. `in_pairs` says for each of the projections [m, D] how to draw
    it. An interval of 0 draws now and counts no step.
    """
    seed, draws, steps = state.tolist()
    if steps >= interval:
        for index, (matrix, paired) in enumerate(zip(projections, in_pairs, strict=True)):
            mixed = Random(f"{seed}/{index}/{draws}").getrandbits(63)
            matrix.copy_(orthogonal_projections(matrix.shape[0], matrix.shape[1], mixed, in_pairs=paired))
        draws, steps = draws + 1, 0
        state[1] = draws
    state[2] = steps + (interval > 0)


@redraw_features.register_fake
def _(projections: list[Tensor], in_pairs: list[bool], state: Tensor, interval: int) -> None:
    return None


def shared_seed() -> int:
    """The global generator's seed; with `torch.distributed` that of rank 0, since features must not differ by rank."""
    seed = [torch.initial_seed() % 2**63]
    if distributed.is_available() and distributed.is_initialized():
        distributed.broadcast_object_list(seed, src=0)
    return seed[0]


class FeatureRedraw(nn.Module):
    """Owner of the draws of all random features below `stack`; `state` int64 [3] is seed, draws, steps since."""

    state: Tensor

    def __init__(self, stack: nn.Module, *, interval: int | None) -> None:
        super().__init__()
        self.interval = interval
        # A list of modules that is not registered: they belong to the stack's layers, not a second time to us.
        self._maps = tuple(module for module in stack.modules() if isinstance(module, RandomFeatures))
        self.register_buffer("state", torch.tensor([shared_seed(), 0, 0]))
        self.redraw()

    def redraw(self) -> None:
        """Draw new projections now; the count of steps starts again."""
        self._run(interval=0)

    def count_step(self) -> None:
        """Count one training step; each draw serves `interval` of them."""
        if self.interval is not None:
            self._run(interval=self.interval)

    def _run(self, interval: int) -> None:
        with torch.no_grad():
            projections = [features.projection_matrix for features in self._maps]
            redraw_features(projections, [features.in_pairs for features in self._maps], self.state, interval)
