"""Figures of matplotlib as SVG for a page: text as text, the page's own colours, identifiers of their own."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

__all__ = ["GRID", "INK", "MUTED", "Style", "draw", "styles"]

# Stand-ins that no figure uses otherwise; `_themed` puts the page's colours in their place, so that one picture serves
# both colour schemes. Behind the comma is the colour without a page.
INK, MUTED, GRID = "#010101", "#010102", "#010103"
_STUDENTS = ("#0f766e", "#b45309", "#6d28d9", "#be185d", "#4d7c0f")
_AUXILIARIES = ("#2f5fb3", "#8a5a44")
_COLOURS = {
    INK: "currentColor",
    MUTED: "var(--muted, #64748b)",
    GRID: "var(--line, #cbd5e1)",
    "#010104": "var(--teacher, #33414f)",
    "#010105": "var(--baseline, #8494a5)",
    **{f"#01011{index}": f"var(--student-{index}, {colour})" for index, colour in enumerate(_STUDENTS)},
    **{f"#01012{index}": f"var(--auxiliary-{index}, {colour})" for index, colour in enumerate(_AUXILIARIES)},
}
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "legend.frameon": False,
    "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": True,
}


@dataclass(frozen=True)
class Style:
    """How a network is drawn: its colour, its dashes and its marker, so that it is known in black and white too.

    ``variable`` is the page's name of the colour.
    """

    variable: str
    colour: str
    dashes: Any
    marker: str


def styles(summary: dict[str, Any]) -> dict[str, Style]:
    """The style of every network of a summary, by name."""
    found, numbers = {}, {"auxiliary": 0, "student": 0}
    for name, network in summary["networks"].items():
        role = network["role"]
        if role == "teacher":
            found[name] = Style("--teacher", "#010104", (0, (4, 2)), "D")
        elif role == "baseline":
            found[name] = Style("--baseline", "#010105", (0, (1, 1.2)), "s")
        else:
            one = numbers[role] % len(_STUDENTS if role == "student" else _AUXILIARIES)
            numbers[role] += 1
            if role == "student":
                found[name] = Style(f"--student-{one}", f"#01011{one}", "-", "o^vPX"[one])
            else:
                found[name] = Style(f"--auxiliary-{one}", f"#01012{one}", (0, (4, 1.5, 1, 1.5)), "ph"[one])
    return found


def draw(name: str, title: str, size: tuple[float, float], paint: Callable[[Any], None], square: bool = False) -> str:
    """An ``<svg>`` element without prologue, as wide as its place allows up to its own width.

    Args:
        name: of the figure, unique on the page; its identifiers begin with it.
        title: what it shows, for those who cannot see it.
        size: width and height in inches.
        paint: draws on the axes it is given.
        square: axes of equal sides.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('the report needs matplotlib: pip install "monai-kd[report]"') from error
    text = io.StringIO()
    with rc_context({**_SETTINGS, "svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        if square:
            axes.set_box_aspect(1)
        paint(axes)
        figure.savefig(
            text, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    return _inline(text.getvalue(), name, title)


def _inline(svg: str, name: str, title: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style\b.*?</style>", "", svg, flags=re.S)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    width = float(re.search(r'width="([\d.]+)pt"', svg)[1])  # type: ignore[index]
    head, tail = svg.split(">", 1)
    head = re.sub(r' (width|height)="[\d.]+pt"', "", head)
    head += f' role="img" aria-label="{escape(title)}" style="max-width:{width / 72 * 96:.0f}px"'
    svg = f"{head}>{tail}"
    # Identifiers and what points at them.
    svg = re.sub(r'(<[^<>]*?\sid=")', rf"\g<1>{name}-", svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", svg)
    return re.sub(r"\b(fill|stroke): (#0101\w\w)\b", _themed, svg).strip()


def _themed(found: re.Match[str]) -> str:
    return f"{found[1]}: {_COLOURS.get(found[2], found[2])}"
