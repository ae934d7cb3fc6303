"""Documentation: every snippet under `docs/` runs (see `tests/snippets.py`), and tables and names match the code."""

import importlib
import re
import sys
from functools import reduce
from pathlib import Path

import pytest

import model_factory
from benchmarks.bound_spread import chain_table
from benchmarks.certificates import all_certificates, strata_table, table
from benchmarks.entropy_bounds import bounds_table
from benchmarks.erring_networks import erring_table
from benchmarks.prompted import prompts_table
from model.discrete.types import ConditionConfig, DiffusionConfig
from model_factory.cli.main import VERBS
from model_factory.diffusion.registry import OBJECTIVES, PROCESSES, SCHEDULES
from model_factory.yaml_config.errors import ConfigError
from model_factory.yaml_config.registry import Registry
from tests.commands import SCRIPTS, check_command, commands
from tests.snippets import ROOT, Page
from tools.documentation.diffusion_tables import fill_table, render_combinations_table, render_samplers_table

PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
INDEX = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
MATHEMATICS = (ROOT / "docs" / "mathematics.md").read_text(encoding="utf-8")
WORTH = (ROOT / "docs" / "worth.md").read_text(encoding="utf-8")
DIFFUSION = (ROOT / "docs" / "diffusion.md").read_text(encoding="utf-8")


def test_docs_index_lists_installed_commands() -> None:
    """The index page maps each program of a checkout to its installed command, and the README does too."""
    rows = re.findall(r"^\| `(?:python )?(?:-m )?([\w./ -]+)` \| `model-factory ([\w-]+)` \|$", INDEX, re.M)
    assert [verb for _, verb in rows] == list(VERBS)
    assert dict(rows) == SCRIPTS
    assert all((ROOT / name).is_file() for name, _ in rows if not name.startswith(("data_manager.", "model_factory ")))
    shown = re.findall(r"^\| `model-factory ([\w-]+)` \| `(?:python )?(?:-m )?([\w./ -]+)` \|", README, re.M)
    assert [(name, verb) for verb, name in shown] == rows


@pytest.mark.parametrize("page", PAGES)
def test_docs_snippets(page: str, tmp_path: Path) -> None:
    Page(page, tmp_path).run()


def test_docs_compatibility_tables_match_code() -> None:
    assert fill_table(DIFFUSION, "combinations", render_combinations_table()) == DIFFUSION
    assert fill_table(DIFFUSION, "samplers", render_samplers_table()) == DIFFUSION


def test_docs_certificates_match_code() -> None:
    """Recompute the first columns of the table."""
    steps = [1, 2, 4, 8, 16]
    shown = rows_of("certificates")
    computed = [cells(line) for line in table(all_certificates(steps, toys=3), steps).splitlines()[2:]]
    columns = [shown[0].index(str(count)) for count in steps]
    assert [[*row[:4], *(row[column] for column in columns)] for row in shown[2:]] == [row[:-1] for row in computed]


def test_docs_entropy_bounds_match_code() -> None:
    assert fill_table(DIFFUSION, "bounds", bounds_table()) == DIFFUSION


def test_docs_prompts_table_matches_code() -> None:
    """Recompute one sampler under absorbing and uniform noise; the others take long."""
    shown = {tuple(row[:2]): row for row in rows_of("prompts")}
    computed = [cells(line) for line in prompts_table(("absorbing", "uniform"), ("ancestral",)).splitlines()[2:]]
    assert [shown[tuple(row[:2])] for row in computed] == computed


def test_docs_sampler_error_table_matches_code() -> None:
    assert fill_table(DIFFUSION, "erring", erring_table()) == DIFFUSION


def test_docs_strata_table_matches_code() -> None:
    assert fill_table(DIFFUSION, "strata", strata_table()) == DIFFUSION


def test_docs_counts_table_matches_code() -> None:
    assert fill_table(DIFFUSION, "counts", chain_table()) == DIFFUSION


def test_docs_explain_every_diffusion_key() -> None:
    first_cells = {cells(line)[0].strip("`") for line in DIFFUSION.splitlines() if line.startswith("| `")}
    assert set(DiffusionConfig.model_fields) <= first_cells
    types = [registry.get(name).config_type for registry in (PROCESSES, SCHEDULES, OBJECTIVES) for name in registry]
    for kind in (*types, ConditionConfig):
        for key in kind.model_fields:
            assert f"`{key}" in DIFFUSION or key == "type", key


@pytest.mark.parametrize("page", PAGES)
def test_docs_test_names_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for name in re.findall(r"`(test_\w+)`", text):
        assert name in TESTS, name
    for path in re.findall(r"`(tests/[\w/.]+)`", text):
        assert (ROOT / path).exists(), path


def test_docs_formulas_have_function_and_test() -> None:
    _, *formulas = re.split(r"^### ", MATHEMATICS, flags=re.M)
    assert len(formulas) > 30
    for formula in formulas:
        title = formula.splitlines()[0]
        functions = re.findall(r"`((?:model_factory|model)\.[\w.]+)`", formula)
        listed = formula.partition("- Tests: ")[2].partition("\n\n")[0]
        proofs = [" ".join(part.split()) for part in listed.split(";") if part]
        assert functions, title
        assert proofs, title
        for dotted in functions:
            resolve(dotted)
        for proof in proofs:
            [path] = re.findall(r"in `(tests/[\w/]+\.py)`", proof)
            for name in re.findall(r"`(test_\w+)`", proof):
                assert path in TESTS[name], (title, name)


def test_docs_register_functions_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    names = re.findall(r"`([\w.]+\.register_\w+)`", text)
    assert len(names) == 19
    for dotted in names:
        assert callable(resolve(dotted))


def test_docs_extension_table_lists_decorators_and_groups() -> None:
    """The table has every decorator of the facade, each with the entry-point group of its registry."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = re.findall(r"\| `model_factory\.(register_\w+)` \| `(model_factory\.\w+)` \|", text)
    assert {name for name, _ in table} == {name for name in dir(model_factory) if name.startswith("register_")}
    for name, group in table:
        module = sys.modules[getattr(model_factory, name).__module__]
        groups = {value.group for value in vars(module).values() if isinstance(value, Registry)}
        assert group in groups, name
        assert name == "register_source" or name.removeprefix("register_") in group, name


@pytest.mark.parametrize(
    "line",
    [
        "python train.py --config configs/full_experiment.yml",  # no --output
        "python generate.py --run runs/first --promt x",
        "python parse_args.py --config configs/full_experiment.yml --set training.max_stepz=3",
        "torchrun --nproc-for-node=2 train.py --config configs/full_experiment.yml --output x",
        "python -m benchmarks.attention --rouns 3",
        "scripts/nothing",
        "scripts/demo --outputs x",
        "model-factory evalute --run runs/first",
        "python -m model_factory validate --config configs/full_experiment.yml --prnt-config",
        "unheard-of --of",
    ],
)
def test_docs_check_detects_wrong_command(line: str, tmp_path: Path) -> None:
    [words] = commands(line)
    with pytest.raises((AssertionError, ConfigError, SystemExit)):
        check_command(words, tmp_path)


@pytest.mark.parametrize(
    "block",
    [
        "```bash\npython parse_args.py --config nowhere.yml\n```\n",
        "```python\nassert 1 + 1 == 3\n```\n",
        "```yaml title=wrong.yml\ntraining: {max_stepz: 3}\n```\n",
        "```yaml\ntraining: {max_steps: 3}\n```\n",
        "```bash\npython -c 'print(1)'\n```\n\n```text output\n2\n```\n",
    ],
)
def test_docs_check_detects_failing_snippet(block: str, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(block, encoding="utf-8")
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(AssertionError):
        Page(str(tmp_path / "page.md"), folder).run()


def test_docs_quoted_numbers_are_in_results() -> None:
    """Check numbers with two or more decimals on the page `worth.md`."""
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    for section in set(re.findall(r"(?<!\*)\*([A-Z][\w ]+)\*(?!\*)", WORTH)):
        assert re.search(rf"^#+ .*{section}|\*\*{section}", results, re.M), section
    for number in set(re.findall(r"(?<![\d.])\d+\.\d{2,}(?![\d.])", WORTH)):
        assert number in results or number in DIFFUSION or number in MATHEMATICS, number


def resolve(dotted: str) -> object:
    """Import the object of a dotted name; raise ImportError or AttributeError if it does not exist."""
    words = dotted.split(".")
    for cut in range(len(words), 0, -1):
        try:
            module = importlib.import_module(".".join(words[:cut]))
        except ModuleNotFoundError:
            continue
        return reduce(getattr, words[cut:], module)
    raise ModuleNotFoundError(dotted)


def names_of_tests() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.M):
            found.setdefault(name, set()).add(str(path.relative_to(ROOT)))
    return found


TESTS = names_of_tests()


def rows_of(name: str) -> list[list[str]]:
    part = DIFFUSION.partition(f"<!-- table: {name} -->")[2].partition("<!-- end -->")[0]
    return [cells(line) for line in part.strip().splitlines()]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]
