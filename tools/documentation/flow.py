"""Draw the data flow diagram from function signatures, and check the calls that it shows."""

import ast
from dataclasses import dataclass
from pathlib import Path

from tools.documentation.svg import Drawing, Point

ROOT = Path(__file__).resolve().parents[2]
WIDTH, HEIGHT, SIZE = 960, 640, (250, 62)


@dataclass(frozen=True)
class Step:
    """Function `name` in `file`, drawn at `corner`."""

    file: str
    name: str
    corner: Point


STEPS = {
    "read_document": Step("model_factory/yaml_config/document.py", "read_document", (355, 96)),
    "read_experiment": Step("model_factory/experiment/config.py", "read_experiment", (355, 192)),
    "load_datasets": Step("data_manager/data_manager.py", "load_datasets", (20, 300)),
    "create_model": Step("model/model_factory.py", "create_model", (690, 192)),
    "build_network": Step("model_factory/training/network.py", "build_network", (690, 300)),
    "train": Step("model_factory/training/engine.py", "train", (355, 300)),
    "restore_run": Step("model_factory/training/run/folder.py", "restore_run", (690, 436)),
    "open_run": Step("model_factory/evaluation/run.py", "open_run", (690, 548)),
    "generate": Step("model_factory/cli/generate.py", "main", (20, 548)),
    "evaluate": Step("model_factory/cli/evaluate.py", "main", (355, 548)),
}
CALLS = (
    ("read_document", "read_experiment", "model_factory/experiment/config.py"),
    ("read_experiment", "train", "model_factory/cli/train_run.py"),
    ("load_datasets", "train", "model_factory/training/splits.py"),
    ("create_model", "build_network", "model_factory/training/network.py"),
    ("build_network", "train", "model_factory/training/network.py"),
    ("build_network", "restore_run", "model_factory/training/run/folder.py"),
    ("restore_run", "open_run", "model_factory/evaluation/run.py"),
    ("open_run", "evaluate", "model_factory/cli/evaluate.py"),
)
"""(producer, consumer, file in which the producer is called)."""
EXPERIMENT_ARROWS: dict[str, list[Point]] = {
    "load_datasets": [(352, 223), (145, 223), (145, 297)],
    "create_model": [(608, 223), (687, 223)],
}
"""Functions that take a part of the experiment as their first parameter, and the arrow to them."""
RUN_FOLDER = ((355, 412), (250, 96))


def return_type(step: Step) -> str:
    """Return the function's return annotation; raise LookupError if there is no such function."""
    for node in ast.walk(ast.parse((ROOT / step.file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name == step.name and node.returns is not None:
            return ast.unparse(node.returns).strip("'")
    raise LookupError(f"{step.file} has no function {step.name} with a return annotation")


def first_parameter_type(step: Step) -> str:
    """Return the annotation of the function's first parameter; raise LookupError if there is no such function."""
    for node in ast.walk(ast.parse((ROOT / step.file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name == step.name and node.args.args[0].annotation is not None:
            return ast.unparse(node.args.args[0].annotation)
    raise LookupError(f"{step.file} has no function {step.name} with an annotated parameter")


def is_called(name: str, file: str) -> bool:
    """Return True if a file calls a function or method of this name."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return any((one.attr if isinstance(one, ast.Attribute) else getattr(one, "id", "")) == name for one in called)


def run_files() -> list[str]:
    """List the files of a run folder from the attributes of `RunFolder`."""
    tree = ast.parse((ROOT / "model_factory/training/run/folder.py").read_text(encoding="utf-8"))
    [folder] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "RunFolder"]
    return [
        str(node.right.value)
        for node in ast.walk(folder)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.right, ast.Constant)
    ]


def flow_svg() -> str:
    """Draw the SVG; raise LookupError if a function or call that it shows does not exist."""
    for producer, _, file in CALLS:
        if not is_called(STEPS[producer].name, file):
            raise LookupError(f"{file} does not call {STEPS[producer].name}")
    drawing = Drawing(WIDTH, HEIGHT, "Data flow, from a config file to metrics")
    drawing.box((355, 12), (250, 44), "experiment.yml", kind="file")
    for points in [*_arrows(), *EXPERIMENT_ARROWS.values()]:
        drawing.arrow(points)
    for key, step in STEPS.items():
        drawing.box(step.corner, SIZE, key if step.name == "main" else step.name, [step.file])
    corner, size = RUN_FOLDER
    names = run_files()
    drawing.box(corner, size, "run folder", [", ".join(names[at : at + 3]) for at in range(0, len(names), 3)], "file")
    for name, position, anchor in _LABELS:
        drawing.text(position, return_type(STEPS[name]), anchor=anchor)
    drawing.text((248, 214), first_parameter_type(STEPS["load_datasets"]))
    drawing.text((648, 214), first_parameter_type(STEPS["create_model"]))
    drawing.text((20, 40), "Labels of arrows are the return types of", anchor="start")
    drawing.text((20, 56), "functions, or the types of their arguments.", anchor="start")
    return drawing.svg()


_LABELS: tuple[tuple[str, Point, str], ...] = (
    ("read_document", (488, 180), "start"),
    ("read_experiment", (488, 288), "start"),
    ("load_datasets", (312, 290), "middle"),
    ("create_model", (823, 282), "start"),
    ("build_network", (648, 290), "middle"),
    ("train", (488, 392), "start"),
    ("restore_run", (807, 530), "end"),
    ("open_run", (648, 570), "middle"),
)


def _arrows() -> list[list[Point]]:
    return [
        [(480, 56), (480, 93)],
        [(480, 158), (480, 189)],
        [(480, 254), (480, 297)],
        [(270, 331), (352, 331)],
        [(815, 254), (815, 297)],
        [(690, 331), (608, 331)],
        [(815, 362), (815, 433)],
        [(480, 362), (480, 409)],
        [(605, 467), (687, 467)],
        [(815, 498), (815, 545)],
        [(690, 579), (608, 579)],
        [(690, 600), (648, 600), (648, 624), (145, 624), (145, 613)],
    ]
