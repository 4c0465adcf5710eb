"""What the tools' pages share: figures in the reader's colours, and one HTML file that needs nothing else.

Needs matplotlib and jinja2 (the extra ``report``), which are imported when a figure is drawn.
"""

import importlib
import io
import math
import warnings
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..engine.files import write
from ..engine.installing import of_extra
from ..engine.mistakes import Mistake

INK = "#010203"  # stands for the colour of the reader's text, light or dark; drawn as such it is black


class Section(NamedTuple):
    """A part of a page.

    Args:
        title: Its heading.
        html: What it shows, as HTML; escape what comes from outside.
    """

    title: str
    html: str


def check_packages(command: str, extra: str, *packages: str) -> None:
    """Find out before any work whether the packages of a tool are there.

    Raises:
        Mistake: One is missing.
    """
    try:
        for package in packages:
            importlib.import_module(package)
    except ImportError as error:
        raise Mistake(
            f"{command} needs the package {error.name}, so nothing was written; install the project's extra: "
            f"{of_extra(extra)}"
        ) from error


def figure(width: float = 6.4, height: float = 3.2, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    """Return a matplotlib figure of a size in inches, and its axes, in the page's style.

    A figure of 4.2 inches is as wide as a telephone: its text keeps its size there.
    """
    import matplotlib
    from matplotlib.figure import Figure  # not pyplot, which keeps figures and looks for a screen

    # Not a context: legends and texts read their style when they are added, which comes later.
    matplotlib.rc_file(Path(__file__).with_name("page.mplstyle"))
    drawn = Figure((width, height))
    return drawn, drawn.subplots(rows, columns)


def svg(drawn: Any) -> str:
    """Return a figure as SVG for a page, its lines and text in the colour of the page's text."""
    text = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the reader's browser has it
        drawn.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    plain = text.getvalue()
    return plain[plain.index("<svg") :].replace(INK, "currentColor")


def label(name: str, length: int = 20) -> str:
    """Return a name as matplotlib writes it as it is: no formulas between dollars, not too long, and in legends."""
    short = shortened(name, length)
    return ("\u200b" if short.startswith("_") else "") + short.replace("$", r"\$")


def shortened(name: str, length: int = 20) -> str:
    """Return a name without its middle where it is too long."""
    start = length // 3
    return name if len(name) <= length else f"{name[:start]}…{name[start + 1 - length :]}"


def figures(*drawn: tuple[Any, str]) -> str:
    """Return figures with their captions as HTML, side by side where there is room."""
    items = (f"<figure>{svg(f)}<figcaption>{escape(caption)}</figcaption></figure>" for f, caption in drawn)
    return f'<div class="figures">{"".join(items)}</div>'


def curve(axes: Any, x: np.ndarray, y: np.ndarray, most: int = 600, **style: Any) -> None:
    """Draw a curve; where it has more points than a screen shows, neighbours are averaged, and one gets a marker."""
    parts = np.array_split(np.arange(len(x)), min(most, len(x)))
    mean_x = [x[part].mean() for part in parts]
    mean_y = [y[part].mean() for part in parts]
    axes.plot(mean_x, mean_y, marker="o" if len(x) == 1 else "", markersize=4, **style)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table as HTML, a long one in a box of its own."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = []
    for row in rows:
        cells = "".join(f"<td>{escape(cell(value))}</td>" for value in row)
        body.append(f"<tr>{cells}</tr>")
    long = " long" if len(body) > 25 else ""
    return f'<div class="wide{long}"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def cell(value: object, digits: int = 4) -> str:
    """Return a value as a table shows it: fractions with four digits, tiny ones with two that count."""
    if not isinstance(value, float):
        return f"{value:,}" if type(value) is int else str(value)
    if math.isnan(value):
        return "–"
    return f"{value:.{digits}f}" if abs(value) >= 1e-3 or value == 0 else f"{value:.2g}"


def amount(value: float) -> str:
    """Return a number in a user's unit with the digits that are worth reading: four, or all before the point."""
    if not math.isfinite(value):
        return "–"
    if value and not 1e-4 <= abs(value) < 1e9:
        return f"{value:.4g}"
    digits = 3 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{max(0, digits)}f}"


def aligned(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table as lines for a terminal."""
    lines = [list(header)]
    lines += [[cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def note(text: str) -> str:
    """Return a remark as HTML: what is missing, or how to read what is there."""
    return f'<p class="faint">{escape(text)}</p>'


def png(drawn: Any, path: Path) -> None:
    """Write a figure as PNG on white."""
    file = io.BytesIO()
    drawn.savefig(file, format="png", dpi=150, facecolor="white")
    write(path, file.getvalue())


def facts(*given: tuple[str, str, str]) -> str:
    """Return numbers worth a glance as HTML: the name, the value and a remark of each."""
    items = [
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd><dd>{escape(remark)}</dd></div>"
        for name, value, remark in given
    ]
    return f'<dl class="facts">{"".join(items)}</dl>'


def write_page(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write a page: one HTML file that asks for nothing from a network."""
    import jinja2

    source = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        variable_start_string="[[",  # other marks than those of the template that this project was made from
        variable_end_string="]]",
        block_start_string="[%",
        block_end_string="%]",
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write(path, environment.from_string(source).render(title=title, sections=sections))
