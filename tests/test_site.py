"""Documentation site: strict build, no external resources, generated files current and complete."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.documentation.architecture import BOXES
from tools.documentation.flow import CALLS, STEPS, is_called, return_type
from tools.documentation.import_graph import FLOORS, ImportGraph
from tools.documentation.reference import all_keys
from tools.documentation.since import current_version, format_versions, key_versions

ROOT = Path(__file__).resolve().parents[1]


def build(source: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Build the pages below `source` with strict mkdocs settings, without a network."""
    command = [sys.executable, "-m", "mkdocs", "build", "--config-file", str(source / "mkdocs.yml")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "https_proxy": "http://127.0.0.1:9"}
    command += ["--site-dir", str(folder)]
    return subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Copy of the pages and their generators that a test may change."""
    for name in ("docs", "tools/documentation"):
        shutil.copytree(ROOT / name, tmp_path / "copy" / name)
    shutil.copy(ROOT / "mkdocs.yml", tmp_path / "copy")
    return tmp_path / "copy"


def test_site_builds_without_external_resources(tmp_path: Path) -> None:
    done = build(ROOT, tmp_path)
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=\"?https?:", page.read_text(encoding="utf-8")), (
            page
        )


@pytest.mark.parametrize("broken", ["[x](nowhere.md)", "[x](diffusion.md#nowhere)", "![x](nowhere.png)"])
def test_site_build_fails_on_broken_link(broken: str, copy: Path, tmp_path: Path) -> None:
    page = copy / "docs" / "worth.md"
    page.write_text(page.read_text(encoding="utf-8") + f"\n{broken}\n", encoding="utf-8")
    assert build(copy, tmp_path / "site").returncode == 1


def test_readme_links_exist() -> None:
    for name in ("README.md", "benchmarks/RESULTS.md", "examples/plugin/README.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / name).read_text(encoding="utf-8")):
            assert (ROOT / name).parent.joinpath(target).exists(), target


def test_generated_docs_are_current() -> None:
    command = [sys.executable, "-m", "tools.documentation", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_reference_keys_have_meaning_and_unit() -> None:
    keys = [(f"{part.type.__name__}.{key.name}", key) for part, key in all_keys()]
    assert len(keys) > 250
    assert [name for name, key in keys if not key.meaning.endswith(".")] == []
    without = [name for name, key in keys if key.is_number and not key.unit]
    assert without == [], "end the docstring with its unit, as in [tokens]; a plain number has [1]"


def test_reference_new_key_gets_current_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kept = tmp_path / "since.txt"
    kept.write_text("Type.old 0.0.1\nType.gone 0.0.1\n", encoding="utf-8")
    monkeypatch.setattr("tools.documentation.since.FILE", kept)
    assert format_versions(key_versions(["Type.old", "Type.new"])) == f"Type.new {current_version()}\nType.old 0.0.1\n"
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"The next version is {current_version()}." in changelog or f"## [{current_version()}]" in changelog


def test_package_diagram_has_every_package() -> None:
    graph = ImportGraph()
    packages = {name for name in FLOORS if name in graph.paths}
    assert packages == set(BOXES)
    pairs = graph.package_pairs()
    assert ("model_factory.cli", "model_factory.pages") in pairs
    assert ("model_factory.cli", "model_factory.yaml_config") not in pairs  # implied by the packages between


def test_data_flow_diagram_matches_code() -> None:
    assert all(is_called(STEPS[producer].name, file) for producer, _, file in CALLS)
    assert return_type(STEPS["restore_run"]) == "tuple[nn.Module, Task]"
    assert not is_called("nowhere", "model_factory/training/engine.py")
