"""Layout of the installed code, proved from the source: no import circle, no import upward, sizes of files and folders."""

import ast
import statistics
from collections import Counter
from pathlib import Path

import pytest

from tools.documentation.import_graph import CHECKER, ImportGraph, floor_of

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = sorted(
    path.parent
    for room in ("model", "data_manager", "model_factory", "tools")
    for path in (ROOT / room).rglob("__init__.py")
)


@pytest.fixture(scope="module")
def graph() -> ImportGraph:
    return ImportGraph()


def test_imports_have_no_circle(graph: ImportGraph) -> None:
    assert len(graph.paths) > 200
    assert graph.circles() == []


def test_imports_never_run_up(graph: ImportGraph) -> None:
    assert graph.upward() == []


def test_lazy_imports_save_a_heavy_package(graph: ImportGraph) -> None:
    assert graph.useless_lazy_imports() == []


def test_check_of_a_file_imports_no_heavy_package(graph: ImportGraph) -> None:
    assert graph.heavy(CHECKER) == set()


def test_facade_imports_nothing_and_nothing_imports_from_it(graph: ImportGraph) -> None:
    assert graph.own("model_factory") == set()
    assert graph.importers()["model_factory"] == set()


def test_graph_finds_circles_upward_and_useless_lazy_imports(tmp_path: Path) -> None:
    files = {
        "model/__init__.py": "",
        "model/a.py": "import torch\ndef f():\n    from model.b import g",
        "model/b.py": "from model.a import f\nfrom data_manager import rows",
        "model/c.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from model.d import h",
        "model/d.py": "import model.c\nfrom importlib import import_module\nimport_module('model.b')",
        "data_manager/__init__.py": "",
        "data_manager/rows.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    graph = ImportGraph(tmp_path, ("model", "data_manager"))
    assert graph.circles() == [["model.a", "model.b"]]
    assert graph.upward() == ["model.b imports data_manager.rows"]
    assert graph.useless_lazy_imports() == ["model/a.py:3 model.b"]
    (tmp_path / "model/a.py").write_text("def f():\n    from model.b import g")
    (tmp_path / "model/b.py").write_text("import torch")
    assert ImportGraph(tmp_path, ("model", "data_manager")).useless_lazy_imports() == []


def test_every_module_is_on_a_floor(graph: ImportGraph) -> None:
    assert {name for name in graph.paths if floor_of(name)[1] < 0} == {"model_factory"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_folder_docstring_lists_contents_and_imports(folder: Path) -> None:
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    assert len(text.splitlines()) > 1
    assert "import" in text


def test_every_folder_of_code_is_a_package(graph: ImportGraph) -> None:
    folders = {path.parent for path in graph.paths.values()} - {ROOT}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_sizes_of_files_and_folders(graph: ImportGraph) -> None:
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in graph.paths.items()}
    per_folder = Counter(path.parent for path in graph.paths.values())
    assert {str(folder): count for folder, count in per_folder.items() if count > 20} == {}
    importers = graph.importers()
    splinters = [name for name, count in lines.items() if count < 50 and len(importers[name]) == 1]
    assert len(splinters) < 0.1 * len(lines), splinters
    assert 90 <= statistics.median(lines.values()) <= 200


def test_no_file_of_the_checkout_is_above_400_lines() -> None:
    others = {".venv", "site", "runs", "build"}
    files = [path for path in ROOT.rglob("*.py") if not others & set(path.relative_to(ROOT).parts)]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {name: count for name, count in lengths.items() if count > 400} == {}
    assert statistics.median(lengths.values()) <= 130
