"""Sharpness of networks on sentence pairs and running text: padding changes nothing, and what has no
meaning there is refused before anything is measured.
"""

from typing import Any

import pytest
from language_support import built, windows
from point_support import generator
from sequence_support import sentences, translator

from phasegrid.declare import import_function
from phasegrid.metrics import METRICS
from phasegrid.tasks import TASKS, mismatch

QUICK: dict[str, dict[str, Any]] = {
    "sam_sharpness": {"examples": 9, "m": 4, "steps": 2},
    "average_sharpness": {"examples": 9, "pairs": 2, "normalize_logits": True},
    "epsilon_sharpness": {"examples": 9, "iterations": 3},
    "effective_dimension": {"examples": 9, "steps": 5, "exact_parameters": 0},
    "relative_flatness": {"examples": 9, "probes": 3},
    "learning_coefficient": {"chains": 2, "draws": 3, "burn_in": 1, "batch_size": 5},
    "merge_tree": {"examples": 9, "points": 3},
}


@pytest.mark.parametrize("name", QUICK)
def test_more_padding_changes_nothing(name: str) -> None:
    compute = import_function(METRICS[name].compute)
    rows: list[Any] = [
        compute([translator()], sentences(more_padding=more), generator(5), **QUICK[name])
        for more in (0, 7)
    ]
    number = "births" if name == "merge_tree" else name
    value, other = (row[number] for row in rows)
    assert other == pytest.approx(value, rel=1e-9, abs=1e-12)
    assert value is not None


@pytest.mark.parametrize("name", QUICK)
def test_running_text_is_measured(name: str) -> None:
    compute: Any = import_function(METRICS[name].compute)
    row = compute([built()], windows(20), generator(5), **QUICK[name])
    assert set(row) == {column.name for column in METRICS[name].columns}
    assert row["loss"] > 0


def test_the_fisher_trace_is_for_examples_of_one_label() -> None:
    takes = METRICS["fisher"].takes
    for task in set(TASKS) - {"classification"}:
        message = mismatch("metric fisher", takes, task)
        assert message is not None
        assert message.startswith("metric fisher takes images or vectors, but the data set holds")
