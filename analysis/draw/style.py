"""Define the style of figures: matplotlib settings, the colours of the phases, and the hatches of
missing cells.
"""

from dataclasses import dataclass
from typing import Any

STYLE: Any = {  # matplotlib types its settings by a union of names that changes with its version
    "figure.dpi": 150,
    "savefig.dpi": 200,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "legend.handlelength": 3.2,  # shows the dashes of a line
    "hatch.linewidth": 0.5,
    "pdf.fonttype": 42,
    "figure.constrained_layout.h_pad": 0.06,
    "figure.constrained_layout.w_pad": 0.06,
}

PHASE_COLOURS: dict[str, str] = {
    "I": "#f0b36a",
    "II": "#b0413e",
    "III": "#b9d9ee",
    "IV": "#4f9d9a",
    "IV-A": "#6fb3b0",
    "IV-B": "#17606e",
    "NC": "#8d8a93",
    "not trained": "#d9d5cc",
}
"""Sharp phases are warm, flat ones cool, and cells that did not converge or train grey. Neighbours
also differ in lightness, for eyes and printers without colour.
"""

PHASE_MEANINGS: dict[str, str] = {
    "I": "sharp, barrier",
    "II": "sharp, no barrier",
    "III": "flat, barrier",
    "IV": "flat, connected",
    "IV-A": "flat, connected, dissimilar",
    "IV-B": "flat, connected, similar",
    "NC": "not converged",
    "not trained": "half of the seeds or more learned nothing",
}


@dataclass(frozen=True, slots=True)
class Hatch:
    """The filling of a cell without a colour of its own."""

    hatch: str
    facecolor: str
    edgecolor: str


MISSING = Hatch("/////", "#ffffff", "#8a8a8a")
DIVERGED = Hatch("xxxxx", "#e6e6e6", "#303030")
NEGATIVE = Hatch("-----", "#dbe6f3", "#3b6ea5")
ZERO = Hatch("ooo", "#ffffff", "#3b6ea5")
UNDEFINED = Hatch("+++", "#ffffff", "#8a8a8a")
FAILED = Hatch("**", "#fbe9e7", "#b0413e")
INAPPLICABLE = Hatch("\\\\\\\\", "#f3f3f3", "#8a8a8a")
NOT_TRAINED = Hatch("|||||", "#d9d5cc", "#a39b8b")
UNSURE = Hatch("....", "none", "#ffffff")
NOT_CONVERGED = Hatch("\\\\\\\\", "none", "#d5d2da")
