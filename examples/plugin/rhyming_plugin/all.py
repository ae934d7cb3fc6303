"""Register every entry of this package: `--plugin rhyming_plugin.all`, where the package is not installed by pip."""

from rhyming_plugin import (  # noqa: F401  (importing a module registers its entry)
    averaging,
    bigram,
    clipped_ddim,
    late_steps,
    next_word,
    next_word_metric,
    power_noise,
    rhymes,
    sharp_mean,
    shifted_relu,
    smoothed,
    windowed,
    words,
    zipf,
)
