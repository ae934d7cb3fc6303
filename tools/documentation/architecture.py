"""Draw the package diagram: one box per package, floors from the bottom up, arrows from the imports."""

from tools.documentation.import_graph import ImportGraph, Pair
from tools.documentation.svg import Drawing, Point

WIDTH, HEIGHT, SIZE = 960, 700, (250, 62)
BOXES: dict[str, tuple[Point, str, str]] = {
    "parse_args": ((100, 20), "parse_args.py", "the check as a script"),
    "model_factory.cli": ((440, 20), "model_factory.cli", "one module per verb"),
    "model_factory.pages": ((440, 130), "model_factory.pages", "HTML reports"),
    "model_factory.sweep": ((100, 180), "model_factory.sweep", "grids, searches, comparison"),
    "model_factory.interop": ((700, 180), "model_factory.interop", "import of published models"),
    "model_factory.evaluation": ((440, 230), "model_factory.evaluation", "samples and metrics"),
    "model_factory.training": ((440, 330), "model_factory.training", "tasks, engine, run folders"),
    "model_factory.experiment": ((440, 430), "model_factory.experiment", "the whole file, cross-checks"),
    "model": ((270, 530), "model", "networks, by registry"),
    "data_manager": ((610, 530), "data_manager", "corpora to batches"),
    "model_factory.diffusion": ((100, 620), "model_factory.diffusion", "processes, objectives, samplers"),
    "model_factory.yaml_config": ((440, 620), "model_factory.yaml_config", "YAML to values with positions"),
}


def architecture_svg(graph: ImportGraph | None = None) -> str:
    """Draw the SVG; raise KeyError for a package without a box in BOXES."""
    drawing = Drawing(WIDTH, HEIGHT, "Packages of the project and their imports")
    for pair in sorted((graph or ImportGraph()).package_pairs()):
        drawing.arrow(_straight_arrow(pair))
    for corner, name, about in BOXES.values():
        drawing.box(corner, SIZE, name, [about])
    drawing.text((WIDTH - 16, 140), "Arrows point to the imported package;", anchor="end")
    drawing.text((WIDTH - 16, 156), "arrows implied by others are omitted.", anchor="end")
    return drawing.svg()


def _straight_arrow(pair: Pair) -> list[Point]:
    """Return the ends of a straight arrow between the edges of two boxes, along the line of their centres."""
    (width, height) = SIZE
    (ax, ay), (bx, by) = ((x + width / 2, y + height / 2) for (x, y), *_ in (BOXES[name] for name in pair))
    share = min(
        abs((width / 2 + 3) / (bx - ax)) if bx != ax else 9, abs((height / 2 + 3) / (by - ay)) if by != ay else 9
    )
    dx, dy = (bx - ax) * share, (by - ay) * share
    return [(round(ax + dx, 1), round(ay + dy, 1)), (round(bx - dx, 1), round(by - dy, 1))]
