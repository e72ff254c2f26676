"""Schematic pictures say what their words mean."""

from dataclasses import asdict

import numpy as np
import pytest

from phasegrid.analysis.draw.schematics import PHASES, SHAPES, phase_schematic, shape_schematic
from phasegrid.analysis.draw.style import PHASE_COLOURS
from phasegrid.analysis.report.requested import requested_figures
from phasegrid.declare import FigureRequest
from phasegrid.figures.schematic import SchematicArgs
from phasegrid.metrics.lines.shapes import count_stationary


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_has_its_stationary_points(name: str) -> None:
    shape = SHAPES[name]
    losses = shape.loss(np.linspace(*shape.ends, 121))
    assert count_stationary(losses.tolist()) == shape.num_stationary


@pytest.mark.parametrize("name", PHASES)
def test_networks_of_a_phase_are_sharp_or_flat_and_connected_or_not(name: str) -> None:
    landscape, step = PHASES[name], 1e-3
    places = np.asarray(landscape.networks)
    near = [landscape.loss(places + shift) for shift in (-step, 0.0, step)]
    curvature = (near[0] - 2 * near[1] + near[2]) / step**2
    between = landscape.loss(np.linspace(places[0], places[-1], 401))
    assert (curvature.min() > 50) == (name in ("I", "II"))
    assert (between.max() - near[1].max() > 0.3) == (name in ("I", "III"))


def test_the_phases_of_a_schematic_are_those_of_diagrams() -> None:
    heads = [ax.get_title(loc="left").partition(":")[0] for ax in phase_schematic().axes]
    assert heads == [*PHASES]
    assert {*PHASES} < {*PHASE_COLOURS}


@pytest.mark.parametrize(("of", "panels"), [("phases", 5), ("shapes", 5)])
def test_a_schematic_can_be_asked_for(of: str, panels: int) -> None:
    args = SchematicArgs("s", of=of)  # type: ignore[arg-type]
    drawn = requested_figures(None, [FigureRequest("schematic", asdict(args))], lambda _: None)  # type: ignore[arg-type]
    assert list(drawn.notes) == []
    assert len(drawn.figures["s"].axes) == panels


def test_shapes_name_their_stationary_points() -> None:
    heads = [ax.get_title(loc="left") for ax in shape_schematic().axes]
    assert [head.partition("\n")[0] for head in heads] == [
        "v-basin [1]",
        "v-side [1]",
        "w-basin [3]",
        "w-peak [3]",
        "vvv-basin [5]",
    ]
