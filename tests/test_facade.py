"""The facade `model_factory`: every public name, imported at its first use and not before."""

import subprocess
import sys
from pathlib import Path

import pytest

import model_factory

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", dir(model_factory))
def test_every_public_name_can_be_imported(name: str) -> None:
    found = getattr(model_factory, name)
    assert getattr(found, "__name__", name) == name


def test_import_and_dir_load_neither_torch_nor_pydantic() -> None:
    code = (
        "import sys, model_factory; dir(model_factory); print(sorted({'torch', 'pydantic', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'create_modle'"):
        _ = model_factory.create_modle


def test_names_under_type_checking_are_those_at_run_time() -> None:
    import ast

    tree = ast.parse(Path(model_factory.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert typed == set(dir(model_factory))
