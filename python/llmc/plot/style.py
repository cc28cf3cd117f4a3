"""The style of all figures: sizes, colours, titles of the parametrizations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENDINGS = (".png", ".svg", ".pdf")
# after Okabe and Ito: distinguishable for colour-blind readers
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#595959"]
GREY, DARK, BAD = "#595959", "#333333", "#D55E00"


class Scheme(NamedTuple):
    title: str
    colour: str


SCHEMES = {
    "sp": Scheme("SP", "#D55E00"),
    "mup": Scheme("µP", "#0072B2"),
    "mup-table3": Scheme("µP (Table 3)", "#56B4E9"),
    "mup-table9": Scheme("µP (Table 9)", "#009E73"),
    "completep": Scheme("CompleteP", "#CC79A7"),
    "u-mup": Scheme("u-µP", "#E69F00"),
}
RC_PARAMS = {
    "axes.titlesize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}


def literal(name: str) -> str:
    """The name as a label: matplotlib reads text between dollar signs as mathematics, and leaves labels that begin with
    an underscore out of legends."""
    return " " * name.startswith("_") + name.replace("$", r"\$")


def scheme_title(name: str) -> str:
    return SCHEMES[name].title if name in SCHEMES else name


def scheme_colour(name: str) -> str:
    return SCHEMES[name].colour if name in SCHEMES else GREY


def pyplot(font_size: float = 9) -> Any:
    """matplotlib.pyplot without a window, with this project's settings. Imported late, because it takes a second."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(RC_PARAMS | {"font.size": font_size})
    return plt


def save(figure: Figure, out: Path, dpi: float = 220) -> None:
    """Writes the figure in the format given by the ending, and closes it."""
    import matplotlib.pyplot as plt

    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=dpi)
    plt.close(figure)
