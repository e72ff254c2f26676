"""Thresholds: which there are, which a task chooses, which are refused."""

import math

import pytest

from phasegrid.analysis.phases.rules import SIMILAR, TOLERANCE, check_thresholds, rules_from
from phasegrid.analysis.report.report import parse_thresholds
from phasegrid.errors import SweepError


def test_translation_is_judged_by_the_loss_and_may_not_converge() -> None:
    rules = rules_from({}, "translation", num_classes=8000.0)
    assert rules.connectivity_quantity == "mode_connectivity_loss"
    assert rules.mode_connectivity == TOLERANCE["mode_connectivity_loss"] == rules.train_loss
    assert rules.not_converged == pytest.approx(math.log(8000) / 2)


def test_classification_is_judged_by_errors_and_has_no_nc() -> None:
    rules = rules_from({}, "classification", num_classes=10.0)
    assert (rules.connectivity_quantity, rules.mode_connectivity) == ("mode_connectivity", 1.0)
    assert rules.not_converged is None


def test_a_tolerance_by_name_chooses_its_quantity() -> None:
    rules = rules_from({"mode_connectivity_loss": 0.05})
    assert (rules.connectivity_quantity, rules.mode_connectivity) == (
        "mode_connectivity_loss",
        0.05,
    )
    back = rules_from({"mode_connectivity": 2.0}, "translation", 100.0)
    assert (back.connectivity_quantity, back.mode_connectivity) == ("mode_connectivity", 2.0)


def test_nc_can_be_asked_for_by_its_threshold() -> None:
    assert rules_from({"not_converged": 1.5}).not_converged == 1.5
    assert rules_from({"not_converged": 1.5}, "translation", 10.0).not_converged == 1.5


def test_translation_into_an_unknown_vocabulary_is_judged_by_divergence_alone() -> None:
    assert rules_from({}, "translation").not_converged == math.inf


def test_a_threshold_can_be_asked_to_be_found() -> None:
    assert parse_thresholds(["cka=otsu", "train_loss = 0.2"]) == {"cka": None, "train_loss": 0.2}
    rules = rules_from({"cka": None, "train_loss": None, "mode_connectivity": None})
    assert (rules.cka, rules.train_loss, rules.mode_connectivity) == (None, None, None)
    assert rules_from({}).cka == SIMILAR


@pytest.mark.parametrize("name", ["confidence", "not_converged"])
def test_what_no_data_can_say_is_not_found(name: str) -> None:
    with pytest.raises(SweepError, match=f"threshold {name}=otsu: only these can be found"):
        check_thresholds({name: None})


def test_two_kinds_of_connectivity_are_refused() -> None:
    with pytest.raises(
        SweepError, match=r"mode_connectivity and mode_connectivity_loss: .* give one"
    ):
        check_thresholds({"mode_connectivity": 1.0, "mode_connectivity_loss": 0.1})
