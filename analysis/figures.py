"""Every figure by name. Each takes tables and an Axes (or gives a Figure of several) and computes no numbers."""

from analysis.curves import curve_grid, cuts
from analysis.diagrams import phase_diagram, phase_map
from analysis.difference_figures import difference_diagram, difference_panels
from analysis.gain_figure import gain_figure
from analysis.lines import curve_panels, cut_panels
from analysis.panels import seven_panels

__all__ = [
    "curve_grid",
    "curve_panels",
    "cut_panels",
    "cuts",
    "difference_diagram",
    "difference_panels",
    "gain_figure",
    "phase_diagram",
    "phase_map",
    "seven_panels",
]
