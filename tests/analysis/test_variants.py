"""Names of variants are the same whatever else a store holds, and requests find them."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace

import pandas as pd
import pytest

from phasegrid.analysis.tables.grid import SweepTables
from phasegrid.analysis.tables.quantities import BUILT_IN
from phasegrid.analysis.tables.variants import parts, resolve, ways
from phasegrid.metrics.cka import CkaArgs

DECLARED = BUILT_IN["cka"]


def rows_of(*changes: dict[str, object], cells: int = 4) -> pd.DataFrame:
    """Each change of the declared arguments of CKA, measured in so many cells, one fewer each
    time.
    """
    rows = [
        {"args": json.dumps({**asdict(CkaArgs()), **change}), "cell": cell}
        for place, change in enumerate(changes)
        for cell in range(cells - place)
    ]
    return pd.DataFrame(rows)


def names(rows: pd.DataFrame) -> list[str]:
    return sorted(ways(DECLARED, rows).suffixes.values())


def test_the_declared_arguments_are_plain_even_where_others_cover_more() -> None:
    rows = rows_of({"mixup_alpha": 0.5}, {"mixup_alpha": 4.0}, {})
    assert names(rows) == ["", "mixup_alpha=0.5", "mixup_alpha=4"]
    assert ways(DECLARED, rows).plain == ""


def test_a_name_does_not_depend_on_what_else_is_there() -> None:
    noise = {"mixup_alpha": None, "pixel_noise": 5.0}
    few = ways(DECLARED, rows_of({}, noise)).suffixes
    many = ways(DECLARED, rows_of({"mixup_alpha": 1.0}, {"examples": 300}, noise, {})).suffixes
    text = json.dumps({**asdict(CkaArgs()), **noise})
    assert few[text] == many[text] == "mixup_alpha=null, pixel_noise=5"


def test_without_the_declared_arguments_the_widest_measured_is_plain() -> None:
    rows = rows_of({"examples": 300}, {"examples": 300, "mixup_alpha": 4.0})
    found = ways(DECLARED, rows)
    assert sorted(found.suffixes.values()) == ["", "examples=300, mixup_alpha=4"]
    assert found.plain == "examples=300"


def test_a_segment_is_plain_only_where_no_curve_was_trained() -> None:
    declared = BUILT_IN["connectivity"]
    segment, curve = {"bends": 0, "points": 9}, {"epochs": 60, "lr": 0.03, "points": 9}

    def plain(*ways_of_measuring: dict[str, object]) -> str:
        texts = [json.dumps({**declared.defaults, **one}) for one in ways_of_measuring]
        rows = [{"args": text, "cell": cell} for text in texts for cell in range(2)]
        return ways(declared, pd.DataFrame(rows)).plain

    assert plain(segment, curve) == plain(curve) == "epochs=60, lr=0.03, points=9"
    assert plain(segment) == "bends=0, points=9"


def test_an_argument_that_a_row_lacks_has_its_default() -> None:
    rows = pd.DataFrame({"args": ['{"mixup_alpha":16.0}', '{"mixup_alpha":4.0}'], "cell": [0, 0]})
    assert names(rows) == ["", "mixup_alpha=4"]


def test_a_users_metric_is_named_from_its_commonest_way() -> None:
    rows = pd.DataFrame({"args": ['{"k":1}', '{"k":1}', '{"k":2}'], "cell": [0, 1, 0]})
    assert sorted(ways(None, rows).suffixes.values()) == ["", "k=2"]


def test_lists_and_truths_have_names_that_can_be_read_back() -> None:
    rows = rows_of({}, {"layers": ("softmax", "logits")})
    assert names(rows) == ["", "layers=softmax+logits"]
    assert parts("x[a=true, b=softmax+logits, c=1e-3]") == {
        "a": True,
        "b": "softmax+logits",
        "c": 0.001,
    }


def test_arguments_that_differ_in_a_late_digit_have_names_of_their_own() -> None:
    rows = rows_of({"pixel_noise": 5.0}, {"pixel_noise": 5.0000001})
    assert sorted(ways(DECLARED, rows).suffixes.values()) == ["", "pixel_noise=5.0000001"]


PRESENT = [
    "cka",
    "cka[mixup_alpha=0.5]",
    "cka[mixup_alpha=null, pixel_noise=5]",
    "cka[layer=logits]",
]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("cka", "cka"),
        ("cka[mixup_alpha=0.50]", "cka[mixup_alpha=0.5]"),
        ("cka[mixup_alpha=16]", "cka"),
        ("cka[pixel_noise=5, mixup_alpha=null]", "cka[mixup_alpha=null, pixel_noise=5]"),
        ("cka[layer=logits]", "cka[layer=logits]"),
        ("cka[layer=softmax]", "cka"),
        ("cka[mixup_alpha=3]", None),
        ("trace", None),
    ],
)
def test_a_request_finds_its_variant_however_it_is_written(asked: str, found: str | None) -> None:
    assert resolve(asked, DECLARED, "", PRESENT) == found


def test_a_request_finds_the_plain_way_by_its_difference_from_the_defaults() -> None:
    present = ["cka", "cka[mixup_alpha=null, pixel_noise=10]"]
    plain = "mixup_alpha=null, pixel_noise=5"
    assert resolve("cka[mixup_alpha=null, pixel_noise=5]", DECLARED, plain, present) == "cka"
    assert resolve("cka[mixup_alpha=null, pixel_noise=10]", DECLARED, plain, present) == present[1]


def test_the_last_stage_may_be_written_out(make_grid: Callable[..., SweepTables]) -> None:
    shown = replace(make_grid(), last_stage="cycle").shown("ensemble")
    present = ["loss", "loss[at=lowest_rate, runs=1]", "loss[at=lowest_rate, runs=2]"]
    plain = "runs=1, stage=train"
    assert resolve("loss[stage=cycle, runs=1]", shown, plain, present) == present[1]
    assert resolve("loss[stage=train, runs=1]", shown, plain, present) == present[0]
    assert resolve("loss[stage=cycle, runs=3]", shown, plain, present) is None


def test_a_request_may_leave_out_what_the_plain_way_has_too() -> None:
    present = ["cka", "cka[examples=300, mixup_alpha=4]"]
    assert resolve("cka[mixup_alpha=4]", DECLARED, "examples=300", present) == present[1]
