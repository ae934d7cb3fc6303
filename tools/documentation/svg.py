"""Minimal SVG shapes for the diagrams, with deterministic output."""

from collections.abc import Sequence
from xml.sax.saxutils import escape

Point = tuple[float, float]
_HEAD = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">
<title>{title}</title>
<style>text{{font:14px sans-serif;fill:#1f2933}}.name{{font-weight:bold}}.small{{font-size:12px;fill:#52606d}}
.box{{fill:#f0f4f8;stroke:#486581}}.file{{fill:#fffbea;stroke:#b88700}}.region{{fill:#fff;stroke:#bcccdc;stroke-dasharray:6 4}}
.arrow{{fill:none;stroke:#334e68;stroke-width:1.4}}.later{{fill:none;stroke:#9aa5b1;stroke-width:1.2;stroke-dasharray:4 4}}</style>
<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto-start-reverse">
<path d="M0 0L10 5L0 10z" fill="#334e68"/></marker></defs>
<rect width="{width}" height="{height}" fill="#fff"/>
"""


class Drawing:
    """SVG drawing of shapes in the order in which they are added."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.lines = [_HEAD.format(width=width, height=height, title=escape(title)).rstrip()]

    def box(self, corner: Point, size: Point, name: str, below: Sequence[str] = (), kind: str = "box") -> None:
        """Add a rectangle with a name, and smaller lines below it."""
        (x, y), (width, height) = corner, size
        self.lines.append(f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6"/>')
        self.text((x + width / 2, y + 22), name, "name")
        for number, line in enumerate(below):
            self.text((x + width / 2, y + 41 + 16 * number), line, "small")

    def text(self, position: Point, words: str, kind: str = "small", anchor: str = "middle") -> None:
        """Add a line of text."""
        x, y = position
        self.lines.append(f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>')

    def arrow(self, points: Sequence[Point], kind: str = "arrow") -> None:
        """Add a polyline with an arrow tip at its last point."""
        path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
        self.lines.append(f'<path class="{kind}" d="{path}" marker-end="url(#tip)"/>')

    def svg(self) -> str:
        """Return the SVG file."""
        return "\n".join([*self.lines, "</svg>", ""])
