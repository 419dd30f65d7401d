"""The lineage of a run as inline SVG: stages downwards in recipe order, parents solid, teachers dashed with domain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

BOX_WIDTH, BOX_HEIGHT, ROW = 190, 38, 62
MARGIN = 8
CHARACTER = 6.6  # width of a letter at 12 px
LABEL_LINE = 15


@dataclass(frozen=True, slots=True)
class Node:
    """A stage, e.g. `Node("if_rl", "rl, done", "sft")`."""

    name: str
    caption: str
    parent: str | None


@dataclass(frozen=True, slots=True)
class TeacherEdge:
    """A stage that learned from another, e.g. `TeacherEdge("if_rl", "mopd_1", "instruction_following")`."""

    teacher: str
    student: str
    label: str


def lineage_svg(nodes: Sequence[Node], teachers: Sequence[TeacherEdge]) -> str:
    """The graph; a parent that is no stage (the base model) gets a box of its own at the top. "" without nodes."""
    names = {node.name for node in nodes}
    roots = dict.fromkeys(n.parent for n in nodes if n.parent is not None and n.parent not in names)
    boxes = [*(Node(root, "not trained here", None) for root in roots), *nodes]
    rows = {node.name: i for i, node in enumerate(boxes)}
    arcs = [
        (rows[n.parent], rows[n.name]) for n in boxes if n.parent is not None and rows[n.name] != rows[n.parent] + 1
    ]
    edges = [edge for edge in teachers if edge.teacher in rows and edge.student in rows]
    left = MARGIN + max((0.75 * _bulge(a, b) for a, b in arcs), default=0.0)
    right = max((_bulge(rows[e.teacher], rows[e.student]) + CHARACTER * len(e.label) for e in edges), default=0.0)
    width, height = left + BOX_WIDTH + right + MARGIN, ROW * len(boxes)
    words = "; ".join(f"{n.name} from {n.parent}" if n.parent else n.name for n in nodes)
    parts = [
        f"<title>Lineage: {escape(words)}</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path class="tip" d="M0 0L8 4L0 8z"/></marker></defs>',
        *(
            _straight(left, rows[n.parent])
            for n in boxes
            if n.parent is not None and rows[n.name] == rows[n.parent] + 1
        ),
        *(_arc("parent", left, a, b, -1) for a, b in arcs),
        *(_arc("teacher", left + BOX_WIDTH, rows[e.teacher], rows[e.student], 1) for e in edges),
        *(_box(node, left, row) for row, node in enumerate(boxes)),
        *_labels(edges, rows, left + BOX_WIDTH),
    ]
    size = f'viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" height="{height}"'
    return f'<svg class="lineage" {size} role="img">{"".join(parts)}</svg>' if nodes else ""


def _middle(row: int) -> float:
    return ROW * row + ROW / 2


def _bulge(a: int, b: int) -> float:
    return min(30.0 + 26.0 * abs(b - a), 150.0)


def _straight(left: float, row: int) -> str:
    x, y = left + BOX_WIDTH / 2, _middle(row) + BOX_HEIGHT / 2
    return f'<path class="parent" marker-end="url(#tip)" d="M{x:.1f} {y:.1f}v{ROW - BOX_HEIGHT}"/>'


def _arc(kind: str, x: float, a: int, b: int, side: int) -> str:
    out = x + side * _bulge(a, b)
    start, end = _middle(a), _middle(b)
    curve = f"M{x:.1f} {start:.1f}C{out:.1f} {start:.1f} {out:.1f} {end:.1f} {x:.1f} {end:.1f}"
    return f'<path class="{kind}" marker-end="url(#tip)" d="{curve}"/>'


def _box(node: Node, left: float, row: int) -> str:
    y, centre = _middle(row), left + BOX_WIDTH / 2
    shape = f'x="{left:.1f}" y="{y - BOX_HEIGHT / 2:.1f}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}"'
    return (
        f'<rect class="box" {shape} rx="6"/>'
        f'<text class="name" x="{centre:.1f}" y="{y - 3:.1f}" text-anchor="middle">{escape(node.name)}</text>'
        f'<text x="{centre:.1f}" y="{y + 13:.1f}" text-anchor="middle">{escape(node.caption)}</text>'
    )


def _labels(edges: Sequence[TeacherEdge], rows: dict[str, int], x: float) -> list[str]:
    parts: list[str] = []
    taken: list[float] = []
    for edge in edges:
        a, b = rows[edge.teacher], rows[edge.student]
        y = (_middle(a) + _middle(b)) / 2 + 4
        while any(abs(y - other) < LABEL_LINE for other in taken):
            y += LABEL_LINE
        taken.append(y)
        parts.append(
            f'<text class="label" x="{x + 0.75 * _bulge(a, b) + 6:.1f}" y="{y:.1f}">{escape(edge.label)}</text>'
        )
    return parts
