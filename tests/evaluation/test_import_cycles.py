"""Import graph of evaluation."""

from tools.documentation.imports import Imports, has_cycle


def test_evaluation_has_no_import_cycle_even_inside_functions():
    pairs = {
        ((name, ""), (one.target, ""))
        for name, imports in Imports().of.items()
        for one in imports
        if name.startswith("evaluation.") and one.target.startswith("evaluation.")
    }
    assert len(pairs) > 50
    assert not has_cycle(pairs)
