"""DMLP's published tables of the DDPM, written out."""

import torch


def published_tables(steps: int) -> dict[str, torch.Tensor]:
    """Compute DMLP's tables, for steps 0 .. T: beta = 0.008 throughout."""
    beta = torch.full((steps + 1,), 0.008)
    alpha = 1 - beta
    alpha_bar = torch.exp(torch.cumsum(torch.log(alpha), 0))
    return {
        "alpha_t": alpha,
        "beta_t": beta,
        "oneover_sqrta": 1 / alpha.sqrt(),
        "sqrt_beta_t": beta.sqrt(),
        "alphabar_t": alpha_bar,
        "sqrtab": alpha_bar.sqrt(),
        "sqrtmab": (1 - alpha_bar).sqrt(),
        "mab_over_sqrtmab": (1 - alpha) / (1 - alpha_bar).sqrt(),
        "loss_weight": 0.5 * beta / (alpha * (1 - alpha_bar)),
    }
