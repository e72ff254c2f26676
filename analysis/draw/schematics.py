"""Draw what words mean, from formulas: phases of learning, and shapes of the loss along a line.

Nothing here is measured. A schematic loss has wells at places m_k, of width w, with barriers of
height h between them, in a bowl: L(x) = c x^2 + h prod_k (1 - exp(-(x - m_k)^2 / 2 w^2)).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from phasegrid.analysis.draw.headings import write_heading
from phasegrid.analysis.draw.style import PHASE_COLOURS, PHASE_MEANINGS
from phasegrid.analysis.tables.grid import Floats

LINE, NETWORK = "#26323a", "#b0413e"
TINT = 0.35  # of the colour of a phase


@dataclass(frozen=True, slots=True)
class Landscape:
    """A schematic loss on a line: the places of its wells, their width, the barriers between them,
    the curvature of the bowl around them; and the places of trained networks.
    """

    wells: Sequence[float]
    width: float
    barrier: float
    bowl: float
    networks: Sequence[float]

    def loss(self, x: Floats) -> Floats:
        """Return the loss at places on the line."""
        apart = (np.asarray(x)[..., None] - np.asarray(self.wells)) / self.width
        loss: Floats = self.bowl * np.square(x) + self.barrier * (1 - np.exp(-(apart**2) / 2)).prod(
            axis=-1
        )
        return loss


PHASES: Mapping[str, Landscape] = {
    "I": Landscape((-0.72, -0.02, 0.66), 0.05, 0.75, 0.12, (-0.72, -0.02, 0.66)),
    "II": Landscape(
        tuple(k / 8 for k in range(-5, 6)), 0.02, 0.13, 0.9, tuple(k / 8 for k in range(-2, 3))
    ),
    "III": Landscape((-0.62, 0.62), 0.25, 0.75, 0.12, (-0.62, 0.62)),
    "IV-A": Landscape((-0.6, -0.3, 0.0, 0.3, 0.6), 0.35, 0.6, 0.02, (-0.55, 0.0, 0.55)),
    "IV-B": Landscape((-0.6, -0.3, 0.0, 0.3, 0.6), 0.35, 0.6, 0.02, (-0.07, 0.0, 0.07)),
}
"""Sharp wells are narrow. Barriers between wells are high in phases I and III. In phase IV-A
trained networks differ, in IV-B they are alike.
"""


@dataclass(frozen=True, slots=True)
class Shape:
    """A shape of the loss along a line: the loss at places t, the place of another network if the
    line is towards one, where the line is seen from and to, its stationary points, and what a line
    of this shape is taken along.
    """

    loss: Callable[[Floats], Floats]
    other: float | None
    ends: tuple[float, float]
    num_stationary: int
    along: str


SHAPES: Mapping[str, Shape] = {
    "v-basin": Shape(lambda t: np.abs(t) ** 1.5, None, (-1, 1), 1, "a random direction"),
    "v-side": Shape(
        lambda t: np.abs(t - 0.7) ** 1.5, 0.7, (-1, 1), 1, "the gradient, a later checkpoint"
    ),
    "w-basin": Shape(
        lambda t: 9 * t**2 * (t - 1) ** 2, 1.0, (-0.4, 1.4), 3, "an independent network"
    ),
    "w-peak": Shape(
        lambda t: 3 * (t**2 - 0.42) ** 2, None, (-1, 1), 3, "a negative eigenvector, mined"
    ),
    "vvv-basin": Shape(
        lambda t: 150 * (t * (t - 0.5) * (t - 1)) ** 2, 1.0, (-0.2, 1.2), 5, "mined"
    ),
}
"""The perturbed network lies at t = 0."""


def phase_schematic(*, title: str = "") -> Figure:
    """Draw a schematic loss for each phase: sharp ones above, flat ones below; poorly connected
    ones on the left.
    """
    places: Any = [["I", "II", "II"], ["III", "IV-A", "IV-B"]]
    figure = Figure(figsize=(6.6, 3.9), layout="constrained")
    axes = figure.subplot_mosaic(places, sharex=True, sharey=True)
    for name, ax in axes.items():
        landscape_axes(ax, PHASES[name])
        ax.set_title(f"{name}: {PHASE_MEANINGS[name]}", loc="left")
        ax.set_facecolor(to_rgba(PHASE_COLOURS[name], TINT))
    axes["I"].set_ylabel("locally sharp\nloss")
    axes["III"].set_ylabel("locally flat\nloss")
    axes["III"].set_xlabel("globally poorly connected")
    for name in ("IV-A", "IV-B"):
        axes[name].set_xlabel("globally well connected")
    write_heading(figure, title)
    return figure


def landscape_axes(ax: Axes, landscape: Landscape) -> Axes:
    """Draw a schematic loss with its trained networks."""
    x = np.linspace(-1, 1, 801)
    ax.plot(x, landscape.loss(x), color=LINE, linewidth=1.3)
    networks = np.asarray(landscape.networks)
    ax.plot(networks, landscape.loss(networks), "o", color=NETWORK, markersize=5, clip_on=False)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_xlim(-1, 1)
    ax.set_ylim(-0.08, 1.0)
    return ax


def shape_schematic(*, title: str = "") -> Figure:
    """Draw each shape of the loss along a line, with the number of its stationary points."""
    figure = Figure(figsize=(8.6, 2.1), layout="constrained")
    for (name, shape), ax in zip(
        SHAPES.items(), figure.subplots(1, len(SHAPES), sharey=True), strict=True
    ):
        shape_axes(ax, shape)
        ax.set_title(f"{name} [{shape.num_stationary}]\n{shape.along}", loc="left", fontsize=7)
    figure.axes[0].set_ylabel("loss")
    figure.axes[0].set_ylim(-0.06, 1.05)
    write_heading(figure, title)
    return figure


def shape_axes(ax: Axes, shape: Shape) -> Axes:
    """Draw the loss along a line, a dotted line at the perturbed network and, in red, at the other
    one.
    """
    t = np.linspace(*shape.ends, 401)
    ax.plot(t, shape.loss(t), color=LINE, linewidth=1.3)
    ax.axvline(0, color="black", linestyle=":", linewidth=1.0)
    if shape.other is not None:
        ax.axvline(shape.other, color=NETWORK, linestyle=":", linewidth=1.0)
    ax.set_xlim(*shape.ends)
    ax.set_xticks([0] if shape.other is None else [0, shape.other])
    ax.set_xticklabels(["θ"] if shape.other is None else ["θ", "θ + ε"])
    ax.set_yticks([])
    return ax
