"""Diffusion as mathematics: no network, float64 inside, nothing imported but torch.

    noise_schedule    sigma(t) and its inverse
    forward_process   the family of processes that replace tokens by noise; graph has uniform and absorbing
    parameterisation  what a network's output means: logits, x0 or score, and the way from each to each
    losses            score entropy, SUBS, UDLM, D3PM; each as diffusion, prior and reconstruction per token
    diffusion_process corruption and the reverse loop
    time_strata       training times by strata over the global batch
    randomness        a stream of uniforms for each row, the same for any split of a batch
    categorical       exact draws in float64
    denoiser          a network as the samplers see it: guidance, temperature, top-p
    sampler_base      what samplers have in common, and their registry; sampler_state, what they step through
    lifting           what samplers of masks share
    samplers          Euler, analytic, ancestral, first-hitting, confidence
    entropy_bounded   as many masks a call as are nearly independent; remasking, tokens masked again;
                      predictor_corrector, tokens drawn clean and noised anew: samplers with settings
    sampling          from a process and a network to samples, in one call
    gaussian          diffusion of vectors instead of tokens, with its gaussian_schedule

Symbols: x_0 clean and x_t noisy tokens, both [B, L]; t in (0, 1]; sigma the total noise up to t, of shape [B] or,
where blocks have times of their own, [B, L]; alpha = exp(-sigma) the chance that a token is untouched. Logarithms are
natural and bounds are in nats.
"""
