"""Draw the package diagram: boxes placed by hand, arrows from the imports."""

from tools.documentation.imports import Imports, Node, Pair, transitive_reduction
from tools.documentation.svg import Drawing, Point

WIDTH, HEIGHT, SIZE = 960, 624, (200, 62)
BOXES: dict[Node, tuple[Point, str, str]] = {
    ("commands", ""): ((380, 16), "the four commands", "parse_args train generate evaluate"),
    ("evaluation", ""): ((520, 112), "evaluation", "samples and metrics"),
    ("pages", ""): ((742, 112), "pages", "HTML reports"),
    ("training", "rest"): ((520, 208), "training", "tasks, engine, run folders"),
    ("data_manager", "rest"): ((730, 304), "data_manager", "corpora to batches"),
    ("experiment", "rest"): ((510, 304), "experiment", "summary, build, commands"),
    ("model", "rest"): ((510, 400), "model", "networks, by registry"),
    ("diffusion", ""): ((510, 512), "diffusion", "processes, samplers, losses"),
    ("experiment", "checking"): ((140, 208), "model_factory.experiment.config", "the whole config"),
    ("training", "checking"): ((140, 304), "training types", "training, generation"),
    ("model", "checking"): ((250, 400), "model types", "model"),
    ("data_manager", "checking"): ((34, 400), "data_manager types", "datasets, global_config"),
    ("yaml_config", ""): ((140, 512), "yaml_config", "YAML to values with positions"),
}
BENT_ARROWS: dict[Pair, list[Point]] = {
    (("data_manager", "rest"), ("data_manager", "checking")): [(830, 369), (830, 606), (60, 606), (60, 465)],
}
"""Bent arrows, where a straight one would cross a box."""
CHECK_REGION = ((18, 176), (448, 412))


def architecture_svg(imports: Imports | None = None) -> str:
    """Draw the SVG; raise KeyError for a package without a box in BOXES."""
    found = imports or Imports()
    drawing = Drawing(WIDTH, HEIGHT, "Packages of the project and their imports")
    drawing.box(*CHECK_REGION, "", kind="region")
    drawing.text((32, 196), "imported to check a config: no torch", anchor="start")
    for pair in sorted(transitive_reduction(found.pairs(eager=True))):
        drawing.arrow(BENT_ARROWS.get(pair) or _straight_arrow(pair))
    for node in list_nodes(found):
        corner, name, about = BOXES[node]
        drawing.box(corner, SIZE, name, [about])
    drawing.text((WIDTH - 16, 40), "Arrows point to the imported package; arrows", anchor="end")
    drawing.text((WIDTH - 16, 56), "implied by others are omitted.", anchor="end")
    return drawing.svg()


def list_nodes(found: Imports) -> list[Node]:
    """List every node that has modules."""
    return sorted({found.node(module) for module in found.of})


def _straight_arrow(pair: Pair) -> list[Point]:
    """Return the ends of a straight arrow between the edges of two boxes, along the line of their centres."""
    (width, height) = SIZE
    (ax, ay), (bx, by) = ((x + width / 2, y + height / 2) for (x, y), *_ in (BOXES[node] for node in pair))
    share = min(
        abs((width / 2 + 3) / (bx - ax)) if bx != ax else 9, abs((height / 2 + 3) / (by - ay)) if by != ay else 9
    )
    dx, dy = (bx - ax) * share, (by - ay) * share
    return [(round(ax + dx, 1), round(ay + dy, 1)), (round(bx - dx, 1), round(by - dy, 1))]
