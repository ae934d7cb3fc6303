"""Measure the error of each feature map against softmax attention: `python -m benchmarks.feature_error [--write]`.

Relative norm of the difference of the outputs, bidirectional, 8 heads of 64, 1024 tokens, the mean over draws of the
projections. `uniform` gives every key the same weight: a map that is no better carries no information on the keys.
The fitted maps (favor++, favor#) use the second moments of these q and k, which training would estimate.
"""

import argparse

import torch
from torch import Tensor

from benchmarks.report import provenance, table, write_section
from model.attention.cores import LinearCore
from model.attention.feature_maps import FavorPlusPlus, FeatureMap, RandomFeatures
from model.attention.feature_redraw import orthogonal_projections
from model.feature_registry import build_feature_map

MAPS = ["favor+", "favor++", "favor#", "relu", "elu"]
HEADS, TOKENS, HEAD_DIM = 8, 1024, 64
FEATURES = [256, 512]


def data(std: float) -> tuple[Tensor, Tensor, Tensor]:
    """Draw q, k and v [1, H, N, D], with independent coordinates of q and k of the same scale."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, HEADS, TOKENS, HEAD_DIM, generator=generator) for _ in range(3))
    return std * q, std * k, v


def anisotropic() -> tuple[Tensor, Tensor, Tensor]:
    """Draw q and k with most of q . k in a few coordinates, and with scales that differ up to 10 times.

    The spectrum falls as exp(-j / 8); q . k / 8 has the standard deviation 0.5.
    """
    q, k, v = data(1.0)
    spectrum = torch.exp(-torch.arange(HEAD_DIM) / 8)
    spectrum *= 0.5 / spectrum.square().mean().sqrt()  # std of q_j k_j
    stretch = torch.logspace(-0.5, 0.5, HEAD_DIM)[torch.randperm(HEAD_DIM, generator=torch.Generator().manual_seed(1))]
    return q * spectrum.sqrt() * stretch, k * spectrum.sqrt() / stretch, v


def error(out: Tensor, wanted: Tensor) -> float:
    """Return the relative norm of the difference."""
    return float((out - wanted).norm() / wanted.norm())


def make_map(name: str, nb_features: int, seed: int, q: Tensor, k: Tensor) -> FeatureMap:
    """Build the map `name` with projections drawn from `seed`, fitted to q and k if it supports that."""
    features = build_feature_map(name, HEAD_DIM, nb_features, HEADS)
    if isinstance(features, RandomFeatures):
        matrix = orthogonal_projections(nb_features, HEAD_DIM, seed, in_pairs=features.in_pairs)
        features.projection_matrix.copy_(matrix)
    if isinstance(features, FavorPlusPlus):
        features.fit(q, k)
    return features


def errors(q: Tensor, k: Tensor, v: Tensor, nb_features: int, draws: int) -> list[float]:
    """Measure the errors of uniform weights and of each map."""
    weights = (q.double() @ k.double().mT / HEAD_DIM**0.5).softmax(-1)
    wanted = (weights @ v.double()).float()
    found = [error(v.mean(-2, keepdim=True).expand_as(wanted), wanted)]
    for name in MAPS:
        cores = [LinearCore(make_map(name, nb_features, seed, q, k)).eval() for seed in range(draws)]
        found.append(sum(error(core(q, k, v, causal=False), wanted) for core in cores) / draws)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--write", action="store_true", help="write RESULTS.md")
    given = parser.parse_args()
    torch.set_num_threads(2)
    cases = [(f"std {std}", data(std)) for std in (0.25, 0.5, 0.75, 1.0)] + [("anisotropic", anisotropic())]
    rows = []
    for name, (q, k, v) in cases:
        for nb_features in FEATURES:
            found = errors(q, k, v, nb_features, given.draws)
            rows.append([name, f"{nb_features}", *(f"{x:.3f}" for x in found)])
    text = table(["q and k", "features", "uniform", *MAPS], rows)
    print(text)
    if given.write:
        about = (__doc__ or "").split("\n\n", 1)[1]
        header = f"## Error of the feature maps\n{provenance('torch', 'performer-pytorch')}\n"
        write_section("feature error", f"{header}\n{about}\n{anisotropic.__doc__}\n{text}")


if __name__ == "__main__":
    main()
