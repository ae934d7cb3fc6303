"""The picture of the rooms: boxes placed by hand, arrows as the imports are."""

from documentation.imports import Imports, Node, Pair, reduced
from documentation.svg import Drawing, Point

WIDTH, HEIGHT, SIZE = 960, 624, (200, 62)
PLACES: dict[Node, tuple[Point, str, str]] = {
    ("verbs", ""): ((380, 16), "the four verbs", "parse_args train generate evaluate"),
    ("evaluation", ""): ((520, 112), "evaluation", "what is written, how good it is"),
    ("pages", ""): ((742, 112), "pages", "what a browser shows"),
    ("training", "rest"): ((520, 208), "training", "tasks, engine, run folders"),
    ("data_manager", "rest"): ((730, 304), "data_manager", "corpora to batches"),
    ("experiment", "rest"): ((510, 304), "experiment", "summary, build, commands"),
    ("model", "rest"): ((510, 400), "model", "networks, by registry"),
    ("diffusion", ""): ((510, 512), "diffusion", "the mathematics, no network"),
    ("experiment", "checking"): ((140, 208), "experiment.config", "the whole file"),
    ("training", "checking"): ((140, 304), "training types", "training, generation"),
    ("model", "checking"): ((250, 400), "model types", "model"),
    ("data_manager", "checking"): ((34, 400), "data_manager types", "datasets, global_config"),
    ("yaml_config", ""): ((140, 512), "yaml_config", "text to values with places"),
}
AROUND: dict[Pair, list[Point]] = {
    (("data_manager", "rest"), ("data_manager", "checking")): [(830, 369), (830, 606), (60, 606), (60, 465)],
}
"""Arrows that would cross a box if they were straight."""
REGION = ((18, 176), (448, 412))


def architecture(imports: Imports | None = None) -> str:
    """The SVG; raises KeyError for a part of the project that has no place in the picture yet."""
    found = imports or Imports()
    drawing = Drawing(WIDTH, HEIGHT, "Rooms of the project and what they import")
    drawing.box(*REGION, "", kind="region")
    drawing.text((32, 196), "imported to check a file: no torch", anchor="start")
    for pair in sorted(reduced(found.pairs(eager=True))):
        drawing.arrow(AROUND.get(pair) or _line(pair))
    for node in found_nodes(found):
        corner, name, about = PLACES[node]
        drawing.box(corner, SIZE, name, [about])
    drawing.text((WIDTH - 16, 40), "An arrow leads to what is imported; those that", anchor="end")
    drawing.text((WIDTH - 16, 56), "follow from others are left out.", anchor="end")
    return drawing.svg()


def found_nodes(found: Imports) -> list[Node]:
    """Every part of the project that has modules."""
    return sorted({found.node(module) for module in found.of})


def _line(pair: Pair) -> list[Point]:
    """From the edge of one box to that of the other, along the straight line between their middles."""
    (width, height) = SIZE
    (ax, ay), (bx, by) = ((x + width / 2, y + height / 2) for (x, y), *_ in (PLACES[node] for node in pair))
    share = min(
        abs((width / 2 + 3) / (bx - ax)) if bx != ax else 9, abs((height / 2 + 3) / (by - ay)) if by != ay else 9
    )
    dx, dy = (bx - ax) * share, (by - ay) * share
    return [(round(ax + dx, 1), round(ay + dy, 1)), (round(bx - dx, 1), round(by - dy, 1))]
