"""Which files are mutated, and which tests may notice."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

_CORE = "attention attention_core core_registry decoding_state feature_base feature_maps feature_redraw fitted_features"
_TESTS = """
    test_attention_layer test_attention_core test_linear_attention test_feature_maps test_feature_redraw test_position test_mixers
    test_chunked_parts test_feature_parts test_generation test_long_sequences test_attention_flops test_attention_underflow test_random_features test_diffusion_model test_block_model test_diffusion_inputs
"""

_FACTS = ("__init__.py", "built_in.py")
"""Files without logic."""

SUITES: dict[str, tuple[list[str], list[str]]] = {
    "diffusion": (
        ["diffusion/*.py", "diffusion/*/*.py"],
        ["tests/diffusion", "tests/model/test_diffusion_model.py", "tests/model/test_block_model.py"],
    ),
    "attention": (
        ["model/chunked/*.py", *(f"model/{name}.py" for name in f"{_CORE} linear_attention position".split())],
        [f"tests/model/{name}.py" for name in _TESTS.split() if "diffusion" not in name and "block" not in name],
    ),
}
"""For each part its files and the tests that are run for them."""

SLOW = 1.0
"""Seconds: longer tests are kept for mutants that all others let pass, with `--thorough`."""

BUDGET = 3.0
"""Seconds of tests for a mutant, cheap ones first; `--thorough` goes on to the end."""

LIMIT = 10.0
"""Seconds of processor time, and six times what a test takes without a fault: who needs more is taken for endless."""


def files_of(suite: str) -> list[str]:
    """The mutated files of a part, relative to the root, in order; those that only say what is where are left out."""
    found = (path for pattern in SUITES[suite][0] for path in ROOT.glob(pattern) if path.name not in _FACTS)
    return sorted(str(path.relative_to(ROOT)) for path in found)


def suite_of(path: str) -> str:
    """The part that a file belongs to; raises ValueError for a file of none."""
    for suite in SUITES:
        if path in files_of(suite):
            return suite
    raise ValueError(f"{path} is not among the files that are mutated")
