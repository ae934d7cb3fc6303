"""Files to mutate, and the tests that are run for them."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_TESTS = """
    test_attention_layer test_attention_core test_linear_attention test_feature_maps test_feature_redraw test_position test_mixers
    test_chunked_parts test_feature_parts test_generation test_long_sequences test_attention_flops test_attention_underflow
    test_random_features test_custom_attention
"""

_FACTS = ("__init__.py", "built_in.py")
"""Files without formulas: facades, and registrations of built-in parts."""

SUITES: dict[str, tuple[list[str], list[str]]] = {
    "diffusion": (
        ["model_factory/diffusion/*.py", "model_factory/diffusion/*/*.py"],
        ["tests/diffusion", "tests/model/test_diffusion_model.py", "tests/model/test_block_model.py"],
    ),
    "attention": (
        ["model/attention/*.py", "model/attention/chunked/*.py", "model/core_registry.py", "model/feature_registry.py"],
        [f"tests/model/{name}.py" for name in _TESTS.split()],
    ),
}
"""Files and tests of each suite."""

SLOW = 1.0
"""Seconds: longer tests are run only with `--thorough`, for mutants that survive all others."""

BUDGET = 3.0
"""Seconds of tests per mutant, cheap ones first; `--thorough` runs all."""

LIMIT = 10.0
"""CPU seconds added to six times a test's normal duration; a test that takes longer counts as an endless loop."""


def list_files(suite: str) -> list[str]:
    """List the mutated files of a suite, relative to the root, sorted, without files that only declare facts."""
    found = (path for pattern in SUITES[suite][0] for path in ROOT.glob(pattern) if path.name not in _FACTS)
    return sorted(str(path.relative_to(ROOT)) for path in found)


def find_suite(path: str) -> str:
    """Return the suite of a file; raise ValueError if it has no suite."""
    for suite in SUITES:
        if path in list_files(suite):
            return suite
    raise ValueError(f"{path} is not a mutated file; files are listed in tools/mutation/settings.py")
