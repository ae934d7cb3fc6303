"""Diffusion as mathematics: no network, float64 inside; torch is imported, and yaml_config by registries alone.

    registry          processes, schedules, objectives and samplers by name; imports no torch
    processes/        forward_process: processes that replace tokens by noise; graph, the uniform and the absorbing one;
                      hybrid, GIDD's; noise_schedule, sigma(t) and its inverse; diffusion_process, a process with its
                      schedule: corruption and the reverse loop
    objectives/       parameterisation: a network's output as logits, x0 or score; losses, block, discrete_time:
                      bounds in three parts per token, diffusion, prior and reconstruction; noise_draws, clipped_draw:
                      noise of a batch by time, by number of masks, or at clipped times; insertion, of tokens too, with
                      the alignment of shortened rows
    samplers/         sampling: samples in one call; denoiser, a network with guidance, temperature and top-p; base,
                      standard and a file for each sampler with settings; state, what samplers step through
    time_strata       training times by strata over the global batch
    randomness        a stream of uniforms for each row, the same for any split of a batch
    categorical       exact draws in float64
    gaussian          diffusion of vectors instead of tokens, with its gaussian_schedule

Symbols: x_0 clean and x_t noisy tokens, both [B, L]; t in (0, 1]; sigma the total noise up to t, [B] or, with a time for
each block, [B, L]; alpha = exp(-sigma) the probability that a token is untouched. Logarithms are natural; bounds are in
nats.
"""
