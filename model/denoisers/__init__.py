"""Networks of diffusion models: from noisy tokens x_t [B, L] and the noise level sigma to logits [B, L, dim].

A denoiser is any module with `forward(x_t, sigma)`; by keyword it may also take `mask`, `cond` and `blocks`.
Processes, bounds and samplers are not here but in `diffusion/`, which imports no network.
"""
