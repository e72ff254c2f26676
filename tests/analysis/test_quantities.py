"""The declared quantities fit the store's columns and the colour rules."""

import matplotlib
import pytest

from phasegrid.analysis.draw.style import PHASE_COLOURS
from phasegrid.analysis.tables.quantities import (
    BUILT_IN,
    QUANTITIES,
    SEVEN,
    quantities_of,
    quantity,
)
from phasegrid.errors import SweepError
from phasegrid.metrics import METRICS
from phasegrid.store.schemas import TRIALS


@pytest.mark.parametrize("name", QUANTITIES)
def test_every_quantity_is_a_declared_column(name: str) -> None:
    what = QUANTITIES[name]
    if what.table == "trials":
        assert TRIALS.field(what.column).type == "float64"
        return
    columns = {column.name: column for column in METRICS[what.table].columns}
    assert columns[what.column].type == ("int64" if what.count else "float64")
    assert what.stderr_column is None or what.stderr_column in columns


@pytest.mark.parametrize("name", QUANTITIES)
def test_every_colour_map_exists_and_diverges_only_about_a_centre(name: str) -> None:
    what = QUANTITIES[name]
    assert what.colours in matplotlib.colormaps
    assert (what.colours in {"RdBu_r", "PuOr_r"}) == (what.centre is not None)


def test_the_seven_are_the_papers() -> None:
    assert [QUANTITIES[name].label for name in SEVEN] == [
        "test accuracy",
        "training loss",
        "ln top Hessian eigenvalue",
        "ln Hessian trace",
        "mode connectivity",
        "CKA",
        r"$\ell_2$ distance",
    ]


def test_a_variant_is_its_base_with_the_difference_in_its_label() -> None:
    what = quantity("cka[mixup_alpha=0.5, layer=logits]")
    assert (what.label, what.column) == ("CKA, mixup_alpha=0.5, layer=logits", "cka")


def test_a_users_metric_is_drawn_plainly() -> None:
    what = quantity("my_lab/sharp.py:SHARP.value_at_end")
    assert (what.table, what.column) == ("my_lab/sharp.py:SHARP", "value_at_end")
    assert what.label == "SHARP value at end"


def test_an_unknown_quantity_is_refused_with_what_there_is() -> None:
    with pytest.raises(
        SweepError, match=r"no quantity is called 'sharpness'; there are: test_accuracy"
    ):
        quantity("sharpness")


def test_phase_colours_differ_in_lightness_between_neighbours_of_a_kind() -> None:
    def lightness(phase: str) -> float:
        r, g, b = matplotlib.colors.to_rgb(PHASE_COLOURS[phase])
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    for one, other in (
        ("I", "II"),
        ("III", "IV-A"),
        ("IV-A", "IV-B"),
        ("II", "III"),
        ("I", "IV-B"),
    ):
        assert abs(lightness(one) - lightness(other)) > 0.1, (one, other)


def test_the_error_bound_of_the_smallest_eigenvalue_is_drawn_beside_it() -> None:
    bound, value = QUANTITIES["lambda_min_residual"], QUANTITIES["lambda_min"]
    assert (bound.table, bound.column) == (value.table, f"{value.column}_residual")
    assert (bound.scale, bound.better) == ("log", "lower")


def test_no_two_declared_columns_are_one_quantity() -> None:
    names = [what.name for table, own in BUILT_IN.items() for what in quantities_of(table, own)]
    assert len(set(names)) == len(names) > 20
