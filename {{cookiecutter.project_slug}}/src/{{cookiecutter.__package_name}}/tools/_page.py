"""What the tools' pages share: figures in the reader's colours, and one HTML file that needs nothing else.

Needs matplotlib and jinja2 (the extra ``report``), which are imported when a figure is drawn.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..runs import write

# Stands for the colour of the reader's text, light or dark; drawn as such it is black.
INK = "#010203"
STYLE: Any = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "legend.frameon": False,
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "page",  # text stays text; the same figure has the same bytes
}


class Section(NamedTuple):
    """A part of a page.

    Args:
        title: Its heading.
        html: What it shows, as HTML; escape what comes from outside.
    """

    title: str
    html: str


def missing(command: str, extra: str, error: ImportError) -> ValueError:
    """Word the error for a package that a tool needs."""
    return ValueError(
        f"{command} needs the package {error.name}, so nothing was written; install the project's extra: "
        f"pip install -e '.[{extra}]'."
    )


def figure(width: float = 6.4, height: float = 3.2, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    """Return a matplotlib figure of a size in inches, and its axes, in the page's style."""
    import matplotlib
    from matplotlib.figure import Figure  # not pyplot, which keeps figures and looks for a screen

    with matplotlib.rc_context(STYLE):
        drawn = Figure((width, height), layout="constrained")
        return drawn, drawn.subplots(rows, columns)


def svg(drawn: Any) -> str:
    """Return a figure as SVG for a page, its lines and text in the colour of the page's text."""
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context(STYLE):
        drawn.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    plain = text.getvalue()
    return plain[plain.index("<svg") :].replace(INK, "currentColor")


def png(drawn: Any, path: Path) -> None:
    """Write a figure as PNG on white."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        drawn.savefig(path, dpi=150, facecolor="white")


def write_page(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write a page: one HTML file that asks for nothing from a network."""
    import jinja2

    source = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source)
    write(path, template.render(title=title, sections=sections))
