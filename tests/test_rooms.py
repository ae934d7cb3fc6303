"""The first lines of every folder are true: what lives there, and what it does not import."""

import ast
from pathlib import Path

import pytest

from documentation.imports import Imports

ROOT = Path(__file__).resolve().parents[1]
ROOMS = sorted(
    path.parent for path in ROOT.glob("*/**/__init__.py") if ".venv" not in path.parts and "examples" not in path.parts
)
NEVER = {
    "yaml_config": ("model", "diffusion", "data_manager", "training", "evaluation", "experiment", "pages"),
    "diffusion": ("model", "data_manager", "training", "evaluation", "experiment", "pages"),
    "model": ("data_manager", "training", "evaluation", "experiment", "pages"),
    "model.chunked": ("yaml_config", "diffusion", "data_manager", "training", "evaluation", "experiment", "pages"),
    "data_manager": ("model", "training", "evaluation", "experiment", "pages"),
    "training": ("evaluation", "pages"),
    "training.tasks": ("training.engine", "training.trainer", "training.run_folder", "training.command"),
    "evaluation": ("training.engine", "training.trainer"),
}


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(ROOT)))
def test_a_folder_says_what_lives_there_and_what_does_not(room):
    text = ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or ""
    assert len(text.splitlines()) > 1
    assert "import" in text


@pytest.mark.parametrize("room", NEVER)
def test_a_room_imports_nothing_of_what_stands_above_it(room):
    found = Imports().of
    own = {name: imports for name, imports in found.items() if name == room or name.startswith(f"{room}.")}
    assert own
    wrong = [
        f"{name} imports {each.target}"
        for name, imports in own.items()
        for each in imports
        if any(each.target == above or each.target.startswith(f"{above}.") for above in NEVER[room])
    ]
    assert wrong == []


def test_no_file_is_long_and_most_are_short():
    files = [path for path in ROOT.rglob("*.py") if not {".venv", "site", "runs"} & set(path.relative_to(ROOT).parts)]
    lengths = sorted(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
    assert lengths[-1] <= 400
    assert lengths[len(lengths) // 2] <= 130
