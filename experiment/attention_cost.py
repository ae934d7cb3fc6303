"""Cost of attention by sequence length, from formulas; no torch is imported.

Multiplications and additions of the attention core, without the projections around it, as `--summary` counts them: both
products of softmax cover all pairs of tokens; linear attention maps each query and key of width D to M features, and
accumulates one D x M sum per head (Choromanski et al. 2021).
"""

from model.types import PerformerParams, default_features

LENGTHS = [2**power for power in range(6, 18)]


def core_flops(params: PerformerParams, length: int, *, linear: bool) -> int:
    """Return the FLOPs of all layers' attention cores for one sequence."""
    if not linear:
        return params.num_layers * 4 * length**2 * params.d_model
    features = params.nb_features or default_features(params.head_dim)
    mapped, width = (0, params.head_dim) if params.feature_map == "elu" else (features, features)
    token = 4 * params.head_dim * mapped + 4 * params.head_dim * width + 4 * width  # the last term: the normaliser
    return params.num_layers * params.num_heads * length * token


def cost_over_length(params: PerformerParams) -> dict[str, tuple[list[float], list[float]]]:
    """Return the GFLOPs of softmax and of linear attention by length."""
    lengths = [float(length) for length in LENGTHS]
    return {
        name: (lengths, [core_flops(params, length, linear=linear) / 1e9 for length in LENGTHS])
        for name, linear in (("softmax", False), ("linear", True))
    }
