"""Every snippet of every page under `docs/` runs as it stands (`tests/snippets.py` says how), and what pages say holds."""

import re
from pathlib import Path

import pytest

from benchmarks.certificates import all_certificates, strata_table, table
from benchmarks.entropy_bounds import bounds_table
from benchmarks.erring_networks import erring_table
from model.diffusion_parts import OBJECTIVES, PROCESSES, SCHEDULES
from model.diffusion_tables import combinations_table, filled, samplers_table
from model.diffusion_types import ConditionConfig, DiffusionConfig
from tests.snippets import ROOT, Page

PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))
DIFFUSION = (ROOT / "docs" / "diffusion.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_snippets(page: str, tmp_path: Path) -> None:
    Page(page, tmp_path).run()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target


def test_tables_of_what_fits_are_the_codes_own() -> None:
    assert filled(DIFFUSION, "combinations", combinations_table()) == DIFFUSION
    assert filled(DIFFUSION, "samplers", samplers_table()) == DIFFUSION


def test_certificates_are_those_of_the_code() -> None:
    """The first columns of the table, computed anew."""
    steps = [1, 2, 4, 8, 16]
    shown = rows_of("certificates")
    computed = [cells(line) for line in table(all_certificates(steps, toys=3), steps).splitlines()[2:]]
    columns = [shown[0].index(str(count)) for count in steps]
    assert [[*row[:4], *(row[column] for column in columns)] for row in shown[2:]] == [row[:-1] for row in computed]


def test_what_the_entropies_bound_is_what_the_code_finds() -> None:
    assert filled(DIFFUSION, "bounds", bounds_table()) == DIFFUSION


def test_which_samplers_forgive_is_what_the_code_finds() -> None:
    assert filled(DIFFUSION, "erring", erring_table()) == DIFFUSION


def test_what_strata_save_is_what_the_code_finds() -> None:
    assert filled(DIFFUSION, "strata", strata_table()) == DIFFUSION


def test_every_key_of_the_section_is_explained() -> None:
    first_cells = {cells(line)[0].strip("`") for line in DIFFUSION.splitlines() if line.startswith("| `")}
    assert set(DiffusionConfig.model_fields) <= first_cells
    types = [registry.get(name).config_type for registry in (PROCESSES, SCHEDULES, OBJECTIVES) for name in registry]
    for kind in (*types, ConditionConfig):
        for key in kind.model_fields:
            assert f"`{key}" in DIFFUSION or key == "type", key


def test_tests_that_a_page_names_exist() -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", DIFFUSION):
        assert f"def {name}(" in sources, name


def rows_of(name: str) -> list[list[str]]:
    part = DIFFUSION.partition(f"<!-- table: {name} -->")[2].partition("<!-- end -->")[0]
    return [cells(line) for line in part.strip().splitlines()]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]
