"""The site builds strictly, reads offline, and what it takes from the code is current and complete."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from documentation.architecture import PLACES, found_nodes
from documentation.flow import CALLS, STEPS, given, is_called
from documentation.imports import HEAVY, Imports, has_cycle, reduced
from documentation.reference import all_keys
from documentation.since import current_version, kept_text, versions

ROOT = Path(__file__).resolve().parents[1]


def build(source: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """`mkdocs build --strict` of the pages below `source`, without a network."""
    command = [sys.executable, "-m", "mkdocs", "build", "--config-file", str(source / "mkdocs.yml")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "https_proxy": "http://127.0.0.1:9"}
    command += ["--site-dir", str(folder)]
    return subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The pages and what builds them, to be changed."""
    for name in ("docs", "documentation"):
        shutil.copytree(ROOT / name, tmp_path / "copy" / name)
    shutil.copy(ROOT / "mkdocs.yml", tmp_path / "copy")
    return tmp_path / "copy"


def test_it_builds_and_fetches_nothing(tmp_path: Path) -> None:
    done = build(ROOT, tmp_path)
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=\"?https?:", page.read_text(encoding="utf-8")), (
            page
        )


@pytest.mark.parametrize("broken", ["[x](nowhere.md)", "[x](diffusion.md#nowhere)", "![x](nowhere.png)"])
def test_what_leads_nowhere_fails(broken: str, copy: Path, tmp_path: Path) -> None:
    page = copy / "docs" / "worth.md"
    page.write_text(page.read_text(encoding="utf-8") + f"\n{broken}\n", encoding="utf-8")
    assert build(copy, tmp_path / "site").returncode == 1


def test_links_of_the_readme_lead_somewhere() -> None:
    for name in ("README.md", "benchmarks/RESULTS.md", "examples/plugin/README.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / name).read_text(encoding="utf-8")):
            assert (ROOT / name).parent.joinpath(target).exists(), target


def test_what_is_generated_is_current() -> None:
    command = [sys.executable, "-m", "documentation", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_key_has_a_meaning_and_every_number_a_unit() -> None:
    keys = [(f"{part.type.__name__}.{key.name}", key) for part, key in all_keys()]
    assert len(keys) > 250
    assert [name for name, key in keys if not key.meaning.endswith(".")] == []
    without = [name for name, key in keys if key.is_number and not key.unit]
    assert without == [], "end the docstring with its unit, as in [tokens]; a plain number has [1]"


def test_a_new_key_gets_the_version_being_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kept = tmp_path / "since.txt"
    kept.write_text("Type.old 0.0.1\nType.gone 0.0.1\n", encoding="utf-8")
    monkeypatch.setattr("documentation.since.FILE", kept)
    assert kept_text(versions(["Type.old", "Type.new"])) == f"Type.new {current_version()}\nType.old 0.0.1\n"
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"The next version is {current_version()}." in changelog or f"## [{current_version()}]" in changelog


def test_rooms_import_in_one_direction_and_checking_needs_no_torch() -> None:
    """What the picture of the rooms says."""
    imports = Imports()
    assert set(found_nodes(imports)) == set(PLACES)
    assert not has_cycle(imports.pairs(eager=True))
    for module in imports.checking:
        eager = {one.target.partition(".")[0] for one in imports.of[module] if one.is_eager}
        assert not eager & set(HEAVY), module
    a, b, c = (("a", ""), ("b", ""), ("c", ""))
    assert reduced({(a, b), (b, c), (a, c)}) == {(a, b), (b, c)}
    assert has_cycle({(a, b), (b, a)})


def test_the_flow_is_that_of_the_code() -> None:
    assert all(is_called(STEPS[giver].name, file) for giver, _, file in CALLS)
    assert given(STEPS["restore_run"]) == "tuple[nn.Module, Task]"
    assert not is_called("nowhere", "training/engine.py")
