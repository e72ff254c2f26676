"""Every figure by name. Each takes tables and an Axes (or gives a Figure of several) and computes no numbers."""

from analysis.curves import curve_grid, cuts
from analysis.diagrams import phase_diagram, phase_map
from analysis.panels import seven_panels

__all__ = ["curve_grid", "cuts", "phase_diagram", "phase_map", "seven_panels"]
