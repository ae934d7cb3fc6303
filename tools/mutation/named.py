"""Domain faults written by hand, each with the tests that must detect it.

Mutation operators change one sign or one argument. These faults are human mistakes: one alpha for the corruption and
another for the loss weight, a posterior with swapped times, a sum that is never normalised.
"""

from dataclasses import dataclass

import pytest

from tools.mutation.patching import apply_mutant, live_functions
from tools.mutation.session import collect, start, wait_for_children
from tools.mutation.settings import ROOT

_BOUNDS, _PROCESS = "tests/diffusion/test_oracle_bounds.py", "tests/diffusion/test_diffusion_process.py"
_KERNELS, _SAMPLERS = "tests/diffusion/test_oracle_process.py", "tests/diffusion/test_oracle_samplers.py"
_PARTS, _GAUSSIAN = "tests/diffusion/test_bound_parts.py", "tests/diffusion/test_oracle_gaussian.py"
_COUNTS = "tests/diffusion/test_count_form.py"
_CORE, _LINEAR = "tests/model/test_attention_core.py", "tests/model/test_linear_attention.py"
_MAPS, _POSITION = "tests/model/test_feature_maps.py", "tests/model/test_position.py"


@dataclass(frozen=True)
class Named:
    """Fault that replaces `before` by `after` in `scope` of `path`, so that a test whose name starts with `test` fails."""

    name: str
    path: str
    scope: str
    before: str
    after: str
    test: str


NAMED = [
    Named(
        "corruption with one alpha, weight with another time's",
        "model_factory/diffusion/objectives/losses.py",
        "Objective.weight",
        "torch.expm1(self.schedule.sigma(t))",
        "torch.expm1(self.schedule.sigma(t / 2))",
        f"{_BOUNDS}::test_5_subs_bound_is_the_entropy",
    ),
    Named(
        "corruption with one alpha, weight with another schedule's (1 / t, that of alpha = 1 - t)",
        "model_factory/diffusion/objectives/losses.py",
        "Objective.weight",
        "self.schedule.rate(t) / torch.expm1(self.schedule.sigma(t))",
        "1 / t.to(torch.float64)",
        f"{_BOUNDS}::test_5_subs_bound_is_the_entropy",
    ),
    Named(
        "corruption at another time than that of the loss weight",
        "model_factory/diffusion/objectives/noise_draws.py",
        "TimeDraw.draw",
        "process.corrupt(x_0, t, generator, frozen)",
        "process.corrupt(x_0, t / 2, generator, frozen)",
        f"{_PARTS}::test_loss_parts_use_one_time_throughout",
    ),
    Named(
        "network conditioned on another noise level than that of the tokens",
        "model_factory/diffusion/objectives/losses.py",
        "Objective.parts",
        "output = self.predict(denoise, noised.x_t, self.schedule.sigma(noised.t), x_0)",
        "output = self.predict(denoise, noised.x_t, self.schedule.sigma(1 - noised.t), x_0)",
        f"{_PARTS}::test_loss_parts_use_one_time_throughout",
    ),
    Named(
        "number of masks from 0 instead of 1, with the weight of the next",
        "model_factory/diffusion/objectives/noise_draws.py",
        "CountDraw.weight",
        "counts.k.clamp_min(1)",
        "(counts.k + 1)",
        f"{_COUNTS}::test_count_form_of_oracle_is_conditional_entropy",
    ),
    Named(
        "time given the number of masks drawn as if it were uniform",
        "model_factory/diffusion/objectives/noise_draws.py",
        "_draw_subsets",
        "torch.where(n > 0, values.gather(1, kth), times)",
        "times",
        f"{_COUNTS}::test_time_given_count_is_beta_distributed",
    ),
    Named(
        "score entropy weighted at another time",
        "model_factory/diffusion/objectives/losses.py",
        "ScoreEntropyLoss.diffusion",
        "per_token(self.schedule.rate(t), x_t)",
        "per_token(self.schedule.rate(1 - t), x_t)",
        f"{_BOUNDS}::test_4_score_entropy_bound_is_the_entropy",
    ),
    Named(
        "sigma instead of 1 - exp(-sigma) in the corruption",
        "model_factory/diffusion/processes/forward_process.py",
        "Graph.sample_transition",
        "< -torch.expm1(-sigma)",
        "< sigma",
        f"{_PROCESS}::test_corruption_probability_matches_schedule",
    ),
    Named(
        "sigma instead of 1 - exp(-sigma) in the noise",
        "model_factory/diffusion/processes/forward_process.py",
        "Graph.noise",
        "-torch.expm1(-sigma)[..., None]",
        "sigma[..., None]",
        f"{_KERNELS}::test_transition_is_the_matrix_exponential_of_the_rate",
    ),
    Named(
        "posterior of masks with t and s swapped",
        "model_factory/diffusion/processes/graph.py",
        "AbsorbingGraph.unmask_probability",
        "torch.exp(-sigma_next) * torch.expm1(sigma_next - sigma) / torch.expm1(-sigma)",
        "torch.exp(-sigma) * torch.expm1(sigma - sigma_next) / -torch.expm1(-sigma_next)",
        f"{_SAMPLERS}::test_9_euler_analytic_and_ancestral_are_one_sampler",
    ),
    Named(
        "posterior of any noise with t instead of s",
        "model_factory/diffusion/processes/forward_process.py",
        "Graph.reverse_posterior",
        "torch.exp(-sigma_next)[..., None] * x_0 + self.noise(sigma_next)",
        "torch.exp(-sigma)[..., None] * x_0 + self.noise(sigma)",
        f"{_SAMPLERS}::test_analytic_and_ancestral_are_one_sampler_for_uniform_noise",
    ),
    Named(
        "Gaussian posterior with t instead of s",
        "model_factory/diffusion/gaussian.py",
        "GaussianDiffusion.posterior",
        "self._rows(self.alpha_bar.sqrt(), s, x_t)",
        "self._rows(self.alpha_bar.sqrt(), t, x_t)",
        f"{_GAUSSIAN}::test_gaussian_posterior_follows_bayes_rule",
    ),
    Named(
        "KL divergence of D3PM with swapped arguments",
        "model_factory/diffusion/objectives/discrete_time.py",
        "D3pmLoss.diffusion",
        "_divergence(_normalise(to), _normalise(model))",
        "_divergence(_normalise(model), _normalise(to))",
        "tests/diffusion/test_discrete_time.py::test_d3pm_under_masks_is_weighted_cross_entropy",
    ),
    Named(
        "uniform process that never draws the current token",
        "model_factory/diffusion/processes/graph.py",
        "UniformGraph.score_entropy",
        "(others + truth) / self.num_tokens",
        "(others + truth) / (self.num_tokens - 1)",
        f"{_BOUNDS}::test_6_udlm_bound_is_the_entropy",
    ),
    Named(
        "no prior term for a mask schedule that is incomplete at t = 1",
        "model_factory/diffusion/processes/graph.py",
        "AbsorbingGraph.prior_part",
        "return -alpha * log_x_0",
        "return -0.0 * log_x_0",
        f"{_BOUNDS}::test_5_prior_part_closes_gap_of_eps",
    ),
    Named(
        "categorical sampling in float32",
        "model_factory/diffusion/categorical.py",
        "invert_distribution",
        "size), dtype=torch.float64",
        "size), dtype=torch.float32",
        "tests/diffusion/test_reference_formulas.py::test_categorical_rare_last_token_is_exact",
    ),
    Named(
        "first-hitting times that ignore the unmasked tokens at t = 1",
        "model_factory/diffusion/samplers/standard.py",
        "FirstHittingSampler.begin",
        "* -torch.expm1(-top)",
        "* 1.0",
        "tests/diffusion/test_reference_formulas.py::test_first_hitting_levels_are_uniform_below_1_minus_alpha",
    ),
    Named(
        "guidance added to the conditional instead of the unconditional output",
        "model_factory/diffusion/samplers/denoiser.py",
        "Denoiser.output",
        "plain + self.guidance",
        "conditioned + self.guidance",
        "tests/diffusion/test_diffusion_sampling.py::test_guidance_temperature_and_top_p",
    ),
    Named(
        "remasking without the compensating unmasking rate",
        "model_factory/diffusion/samplers/remasking.py",
        "RemaskingSampler.move_probability",
        "rho / torch.expm1(sigma)",
        "0 * rho",
        "tests/diffusion/test_oracle_correctors.py::test_remasking_keeps_token_marginals",
    ),
    Named(
        "eta instead of its square in DDIM",
        "model_factory/diffusion/gaussian.py",
        "GaussianDiffusion.ddim_step",
        "eta**2 * replaced",
        "eta * replaced",
        f"{_GAUSSIAN}::",
    ),
    Named(
        "feature map whose stabiliser does not cancel",
        "model/attention/chunked/features.py",
        "ChunkFeatures.keys",
        "k.new_zeros(k.shape[:-1]) if peak is None else peak",
        "k.new_zeros(k.shape[:-1])",
        f"{_CORE}::test_agrees_with_oracle",
    ),
    Named(
        "FAVOR+ without |k|^2 / 2",
        "model/attention/feature_maps.py",
        "FavorPlus.kernel",
        "weight.new_full((1, self.head_dim), 0.5 / self.head_dim**0.5)",
        "None",
        f"{_MAPS}::test_feature_map_is_unbiased_for_softmax",
    ),
    Named(
        "causal mask off by one: a token does not attend to itself",
        "model/attention/chunked/state.py",
        "make_decays",
        ".tril_()",
        ".tril_(-1)",
        f"{_CORE}::test_agrees_with_oracle",
    ),
    Named(
        "causal mask off by one: a token attends to the next",
        "model/attention/chunked/state.py",
        "make_decays",
        ".tril_()",
        ".tril_(1)",
        f"{_CORE}::test_future_token_does_not_change_earlier_rows",
    ),
    Named(
        "state of a chunk includes the chunk itself",
        "model/attention/chunked/state.py",
        "scan_chunks",
        "now = into[0].copy_(first)",
        "now = into[0].copy_(first + added[0])",
        f"{_LINEAR}::test_chunked_result_is_independent_of_the_plan",
    ),
    Named(
        "normaliser missing",
        "model/attention/chunked/block.py",
        "Block.divide",
        "torch.div(numerator.view(target.shape), safe_divisor(kept).unsqueeze(-1), out=target)",
        "target.copy_(numerator.view(target.shape))",
        f"{_CORE}::test_agrees_with_oracle",
    ),
    Named(
        "1e-6 added to the normaliser",
        "model/attention/chunked/block.py",
        "safe_divisor",
        "denominators.clamp(min=torch.finfo(denominators.dtype).tiny)",
        "denominators + 1e-6",
        f"{_CORE}::test_agrees_with_oracle",
    ),
    Named(
        "normaliser without gradient",
        "model/attention/chunked/gradients.py",
        "Results.quotients",
        'out=space("shares", *out.shape)).sum(-1, keepdim=True)',
        'out=space("shares", *out.shape)).sum(-1, keepdim=True) * 0',
        f"{_CORE}::test_gradients_agree_with_oracle",
    ),
    Named(
        "accumulated state keeps an old scale",
        "model/attention/cores.py",
        "update",
        "kept.unsqueeze(-1) * state.sums",
        "state.sums",
        f"{_LINEAR}::test_recurrent_agrees_with_oracle",
    ),
    Named(
        "queries and keys divided by the square root of D twice",
        "model/attention/feature_maps.py",
        "RandomFeatures.scaled_projections",
        "self.head_dim**-0.25",
        "self.head_dim**-0.5",
        f"{_MAPS}::test_feature_map_is_unbiased_for_softmax",
    ),
    Named(
        "rotary embedding that is not a rotation",
        "model/attention/rotary.py",
        "rotate",
        "second, sin, value=-1",
        "second, sin, value=1",
        f"{_POSITION}::test_rotary_products_depend_only_on_distance",
    ),
]


def check_named(wanted: str = "") -> int:
    """Insert each fault whose name contains `wanted` in a separate child and print the test that detects it.

    Return 0 if each is detected by its test.
    """
    chosen = [one for one in NAMED if wanted in one.name]
    undetected: list[str] = []

    def work(items: list[pytest.Item]) -> None:
        functions = live_functions(sorted({one.path for one in chosen}))
        for one in chosen:
            source, line = insert_fault(one)
            tests = [(item, 60.0) for item in items if item.nodeid.startswith(one.test)]

            def prepare(one: Named = one, source: str = source, line: int = line) -> None:
                apply_mutant(one.path, one.scope, source, line, functions)

            ((_, state, test),) = wait_for_children([start(prepare, tests)])
            is_killed = bool(tests) and state in ("killed", "timeout")
            print(f"{'detected  ' if is_killed else 'UNDETECTED'}  {one.name}: {test or one.test}", flush=True)
            if not is_killed:
                undetected.append(one.name)

    code = collect(sorted({one.test.partition("::")[0] for one in chosen}), work)
    print(f"{len(chosen) - len(undetected)} of {len(chosen)} named faults are detected")
    return 1 if undetected or code else 0


def insert_fault(fault: Named) -> tuple[str, int]:
    """Return the file with the fault, and its line; raise ValueError unless its text occurs exactly once in its scope."""
    text = (ROOT / fault.path).read_text()
    outer, _, name = fault.scope.rpartition(".")
    begin = text.index(f"class {outer}") if outer else 0
    begin = text.index(f"def {name}(", begin)
    end = text.find("\n    def " if outer else "\ndef ", begin)
    body = text[begin : end if end > 0 else len(text)]
    if body.count(fault.before) != 1:
        raise ValueError(f"{fault.name}: {fault.before!r} occurs {body.count(fault.before)} times in {fault.scope}")
    source = text[:begin] + body.replace(fault.before, fault.after) + text[begin + len(body) :]
    return source, text[: begin + body.index(fault.before)].count("\n") + 1
