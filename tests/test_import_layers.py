"""Import layers: every package documents its content and imports nothing from a higher layer."""

import ast
from pathlib import Path

import pytest

from tools.documentation.imports import Imports

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = sorted(
    path.parent for path in ROOT.glob("*/**/__init__.py") if ".venv" not in path.parts and "examples" not in path.parts
)
FORBIDDEN = {
    "yaml_config": ("model", "diffusion", "data_manager", "training", "evaluation", "experiment", "pages"),
    "diffusion": ("model", "data_manager", "training", "evaluation", "experiment", "pages"),
    "model": ("data_manager", "training", "evaluation", "experiment", "pages"),
    "model.attention.chunked": (
        "yaml_config",
        "diffusion",
        "data_manager",
        "training",
        "evaluation",
        "experiment",
        "pages",
    ),
    "data_manager": ("model", "training", "evaluation", "experiment", "pages"),
    "training": ("evaluation", "pages"),
    "model_factory.training.tasks": (
        "model_factory.training.engine",
        "model_factory.training.trainer",
        "model_factory.training.run.folder",
        "model_factory.cli.train",
    ),
    "evaluation": ("model_factory.training.engine", "model_factory.training.trainer"),
}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: str(package.relative_to(ROOT)))
def test_package_docstring_has_content_and_imports(package):
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    assert len(text.splitlines()) > 1
    assert "import" in text


@pytest.mark.parametrize("package", FORBIDDEN)
def test_package_imports_no_higher_layer(package):
    found = Imports().of
    modules = {name: imports for name, imports in found.items() if name == package or name.startswith(f"{package}.")}
    assert modules
    wrong = [
        f"{name} imports {each.target}"
        for name, imports in modules.items()
        for each in imports
        if any(each.target == above or each.target.startswith(f"{above}.") for above in FORBIDDEN[package])
    ]
    assert wrong == []


def test_file_lengths_are_limited():
    files = [path for path in ROOT.rglob("*.py") if not {".venv", "site", "runs"} & set(path.relative_to(ROOT).parts)]
    lengths = sorted(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
    assert lengths[-1] <= 400
    assert lengths[len(lengths) // 2] <= 130
