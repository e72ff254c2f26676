"""What a request for a metric may read: every mistake in it, with its place and what is allowed."""

from pathlib import Path

import pytest

from phasegrid import load_sweep
from phasegrid.errors import SweepError
from phasegrid.metrics import METRICS

HEAD = """\
schema: 1
name: s
dataset: {name: digits}
model: {name: mlp}
train: {batch_size: 32, epochs: 4, keep_every: 2}
load: {param: model.width, values: [2, 4]}
seeds: 2
metrics:
"""
CURVE = "  - connectivity: {epochs: 2, id: bent}\n"


def mistakes(tmp_path: Path, *metrics: str, head: str = HEAD) -> list[str]:
    path = tmp_path / "s.yaml"
    path.write_text(head + "".join(f"  - {metric}\n" for metric in metrics))
    with pytest.raises(SweepError) as caught:
        load_sweep(path)
    return [f"{m.line}:{m.column}: {m.path}: {m.message}" for m in caught.value.mistakes]


READING = ", ".join(name for name, metric in METRICS.items() if metric.reads)
BAD = {
    "unknown of": (
        "ensemble: {of: bend}",
        "10:20: metrics.1.ensemble.of: found 'bend'; ids of requests: bent; did you mean 'bent'?",
    ),
    "of what leaves nothing": (
        "ensemble: {of: plain}",
        "10:20: metrics.1.ensemble.of: found 'plain', which is accuracy and leaves nothing; "
        "ensemble reads the curve or complex of a metric",
    ),
    "of by a metric that reads nothing": (
        "accuracy: {of: bent}",
        "10:16: metrics.1.accuracy.of: this metric does not read another metric's artifacts; metrics that do:"
        f" {READING}; leave it out",
    ),
    "too few networks": (
        "plane",
        "10:5: metrics.1.plane: needs at least 3 trials of a cell, found 2 seeds; raise seeds",
    ),
    "over beside of": (
        "ensemble: {of: bent, over: trial}",
        "10:32: metrics.1.ensemble.over: found 'trial'; allowed beside of: cell, which joins all of a"
        " cell, or leave it out",
    ),
    "over beside of, where nothing is joined": (
        "predictions: {of: bent, over: cell}",
        "10:29: metrics.1.predictions.over: found beside of: it is over what that request is over;"
        " leave it out",
    ),
    "runs beside of, over each": (
        "ensemble: {of: bent, runs: 1}",
        "10:26: metrics.1.ensemble.runs: found beside of without over: cell, with which it goes; add it",
    ),
    "more runs than there are curves": (
        "ensemble: {of: bent, over: cell, runs: 2}",
        "10:44: metrics.1.ensemble.runs: found 2, but 'bent' has 1 job in a cell",
    ),
    "no runs": (
        "ensemble: {of: bent, over: cell, runs: 0}",
        "10:44: metrics.1.ensemble.runs: found 0; allowed: an integer, at least 1",
    ),
    "a misspelt key of requests": (
        "connectivity: {pars: first}",
        "10:20: metrics.1.connectivity.pars: found the key 'pars'; allowed: curve, bends, epochs,"
        " lr, momentum, batch_size, weight_decay, init, points, refresh_examples, updates, precision,"
        " augment, refresh_augment, swag_from_epoch, swag_rank, pairs, id, over, at, where, stage,"
        " networks; did you mean 'pairs'?",
    ),
    "a curve without bends": (
        "connectivity: {curve: segment}",
        "10:27: metrics.1.connectivity.curve: found 'segment'; allowed: bezier, polychain or"
        " random_segment; bends: 0 is the straight segment",
    ),
    "unknown over": (
        "accuracy: {over: trajectry, at: [2]}",
        "10:22: metrics.1.accuracy.over: found 'trajectry'; allowed: trial, trajectory; did you mean"
        " 'trajectory'?",
    ),
    "trajectory without at": (
        "accuracy: {over: trajectory}",
        "10:5: metrics.1.accuracy: over: trajectory needs at: epochs from 0, updates, as"
        " update-300, averaged, lowest_rate and checkpoints, one or a list; or swag",
    ),
    "an epoch that is no number": (
        "accuracy: {over: trajectory, at: [2, last]}",
        "10:42: metrics.1.accuracy.at: found 'last'; allowed: epochs from 0, updates, as"
        " update-300, averaged, lowest_rate and checkpoints, one or a list; or swag",
    ),
    "an epoch twice": (
        "accuracy: {over: trajectory, at: [2, 2]}",
        "10:42: metrics.1.accuracy.at: found 2 twice; each once",
    ),
    "no epoch": (
        "accuracy: {over: trajectory, at: []}",
        "10:38: metrics.1.accuracy.at: found an empty list; allowed: epochs from 0, updates,"
        " as update-300, averaged, lowest_rate and checkpoints, one or a list; or swag",
    ),
    "an epoch that is never reached": (
        "accuracy: {over: trajectory, at: [6]}",
        "10:39: metrics.1.accuracy.at: epoch 6 of train is never reached: a training has 4 epochs;"
        " allowed: at most that",
    ),
    "an epoch that is never kept": (
        "accuracy: {over: trajectory, at: [3]}",
        "10:39: metrics.1.accuracy.at: train publishes no checkpoint after epoch 3; it publishes 0, 2, 4,"
        " ...",
    ),
    "an unknown field": (
        "cka: {over: across, where: {model.widht: [2]}}",
        "10:33: metrics.1.cka.where.model.widht: unknown field; allowed: seed, model.width (these"
        " vary), or another field of model, dataset or train; did you mean 'model.width'?",
    ),
    "a value that nothing has": (
        "cka: {over: across, where: {model.width: [2, 3]}}",
        "10:50: metrics.1.cka.where.model.width: no trial has 3; there are 2, 4",
    ),
    "a seed that nothing has": (
        "cka: {over: across, where: {seed: [0, 7]}}",
        "10:43: metrics.1.cka.where.seed: no trial has 7; there are 0, 1",
    ),
    "one trial": (
        "cka: {over: across, where: {model.width: 2, seed: 0}}",
        "10:32: metrics.1.cka.where: chooses 1 trial; cka needs at least 2",
    ),
    "no mapping": (
        "cka: {over: across, where: [2]}",
        "10:32: metrics.1.cka.where: found [2]; allowed: a mapping from fields to values: model.width:"
        " [8, 16]",
    ),
    "where without across": (
        "cka: {where: {seed: 0}}",
        "10:11: metrics.1.cka.where: goes with over: across, found over: pair; write over: across or"
        " leave it out",
    ),
    "an id twice": (
        "accuracy: {id: bent}",
        "10:20: metrics.1.accuracy.id: found 'bent' twice, first in line 9; an id is one request's",
    ),
    "an id that is no text": (
        "accuracy: {id: 3}",
        "10:20: metrics.1.accuracy.id: found 3; allowed: text",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_in_what_a_request_reads_is_told_with_its_place(
    tmp_path: Path, name: str
) -> None:
    metric, told = BAD[name]
    first = "accuracy: {id: plain}" if "plain" in metric else "connectivity: {epochs: 2, id: bent}"
    assert mistakes(tmp_path, first, metric) == [told]


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ("accuracy: {id: x}", "accuracy: {id: x}", "10:20: metrics.1.accuracy.id: found 'x' twice"),
        ("accuracy: {of: x}", "accuracy: {of: y}", "9:16: metrics.0.accuracy.of"),
    ],
)
def test_one_mistake_is_told_once(tmp_path: Path, first: str, second: str, told: str) -> None:
    found = mistakes(tmp_path, first, second)
    assert found[0].startswith(told)
    assert not [line for line in found if "asked for twice" in line]


def test_what_is_across_cells_is_not_joined_in_one(tmp_path: Path) -> None:
    across = "connectivity: {id: far, over: across, where: {model.width: 4}}"
    (told,) = mistakes(tmp_path, across, "ensemble: {of: far, over: cell}")
    assert told == (
        "10:31: metrics.1.ensemble.over: joins what is over one cell; 'far' is over networks across"
        " cells"
    )


STRAIGHT = "connectivity: {bends: 0, id: straight}"


@pytest.mark.parametrize(
    ("curve", "metric", "told"),
    [
        (
            STRAIGHT,
            "plane: {of: straight}",
            "10:17: metrics.1.plane.of: found a curve without bends, which spans no plane; give it"
            " bends: 1 or more",
        ),
        (
            "connectivity: {bends: 2, id: bent}",
            "plane: {of: bent, bend: 3}",
            "10:29: metrics.1.plane.bend: found bend 3, but the curve has bends: 2; allowed: 1 to 2",
        ),
        (
            STRAIGHT,
            "plane: {over: trajectory, at: [0, 2, 4], bend: 1}",
            "10:52: metrics.1.plane.bend: found 1, but no curve; leave it out, or write of: with the id"
            " of one",
        ),
    ],
)
def test_a_plane_needs_a_bend_that_its_curve_has(
    tmp_path: Path, curve: str, metric: str, told: str
) -> None:
    assert mistakes(tmp_path, curve, metric) == [told]


@pytest.mark.parametrize("metric", ["connectivity", "distance"])
def test_weights_of_different_models_are_not_joined(tmp_path: Path, metric: str) -> None:
    (told,) = mistakes(tmp_path, f"{metric}: {{over: across, where: {{seed: 0}}}}")
    place, _, message = told.partition(": chooses ")
    assert place.endswith(f": metrics.0.{metric}.where")
    assert "different numbers of parameters: 166 (mlp: width 2" in message
    assert message.endswith("choose cells of one model")


def test_weights_of_one_model_are_joined_across_cells(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(HEAD + "  - distance: {over: across, where: {model.width: 4}}\n")
    (request,) = load_sweep(path).metrics
    assert request.chosen == ((1, 0), (1, 1))


def test_values_that_only_other_cells_have_choose_nothing(tmp_path: Path) -> None:
    head = HEAD.replace("seeds: 2\n", "seeds: 2\ninclude: [{model.width: 8, train.lr: 0.3}]\n")
    head = head.replace("load:", "temperature: {param: train.lr, values: [0.1]}\nload:")
    (told,) = mistakes(
        tmp_path, "cka: {over: across, where: {model.width: 2, train.lr: 0.3}}", head=head
    )
    assert told.endswith("metrics.0.cka.where: matches no trial: no cell has all of these values")


def test_checkpoints_that_no_trial_keeps_are_not_measured(tmp_path: Path) -> None:
    head = HEAD.replace(", keep_every: 2", "")
    (told,) = mistakes(tmp_path, "accuracy: {over: trajectory, at: [2]}", head=head)
    assert told.endswith(
        "the trials publish no checkpoints; add train.checkpoints: {every_epochs: ...}"
    )


@pytest.mark.parametrize(
    ("train", "at", "found", "most"),
    [
        ("updates: 20, keep_every: 1", "epoch", 2, "1 epoch"),
        ("epochs: 4, checkpoints: {every_updates: 1}", "update", 165, "164 updates"),
        ("epochs: 4, checkpoints: {at: lowest_rate}, schedule: {name: cyclic, cycle_epochs: 2}",
         "update", 165, "164 updates"),
    ],
)  # fmt: skip
def test_a_moment_beyond_the_end_is_counted_with_the_data(
    tmp_path: Path, train: str, at: str, found: int, most: str
) -> None:
    head = HEAD.replace("epochs: 4, keep_every: 2", train)
    place = found if at == "epoch" else f"update-{found}"
    (told,) = mistakes(tmp_path, f"accuracy: {{over: trajectory, at: [{place}]}}", head=head)
    reached = f"{at} {found} of train is never reached: a training has {most}"
    assert told.endswith(f"metrics.0.accuracy.at: {reached}; allowed: at most that")


CIRCLE = """\
from dataclasses import dataclass
from phasegrid.declare import Column, Metric

@dataclass(frozen=True, slots=True)
class Args:
    scale: float = 1.0

def compute(models, data, rng, sources=(), scale=1.0):
    return {"value": scale}

TURN = Metric(over="trial", args=Args, compute=compute, leaves=("curve",), reads=("curve",),
              columns=(Column("value", "float64", "", "a number"),))
"""


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        (
            "{over: trajectory, at: [0, 4]}",
            "gives 2 networks of each training; plane needs at least 3",
        ),
        ("{networks: [{seed: 0}, {seed: 1}]}", "names 2 networks; plane needs at least 3"),
        (
            "{over: across, networks: [{seed: 0, model.width: 2}, {seed: 1, model.width: 2},"
            " {seed: 0, model.width: 4}]}",
            "parameters",
        ),
    ],
)
def test_a_plane_needs_three_networks_of_one_architecture(
    tmp_path: Path, metric: str, told: str
) -> None:
    (mistake,) = mistakes(tmp_path, f"plane: {metric}")
    assert told in mistake


def test_a_metric_over_what_another_leaves_needs_it(tmp_path: Path) -> None:
    (tmp_path / "turn.py").write_text(CIRCLE.replace('over="trial"', 'over="artifact"'))
    told = mistakes(tmp_path, "connectivity: {epochs: 2, id: bent}", "turn.py:TURN")
    assert told == [
        "10:5: metrics.1.turn.py:TURN: reads the curve that another metric leaves; write of: with"
        " the id of a request that leaves one (bent)"
    ]


def test_requests_that_read_each_other_in_a_circle_are_named(tmp_path: Path) -> None:
    (tmp_path / "turn.py").write_text(CIRCLE)
    told = mistakes(
        tmp_path,
        "turn.py:TURN: {id: a, of: c}",
        "turn.py:TURN: {id: b, of: a, scale: 2}",
        "turn.py:TURN: {id: c, of: b, scale: 3}",
        "turn.py:TURN: {id: alone, of: alone}",
    )
    ends = "; no request of a circle can be first"
    assert told == [
        f"9:31: metrics.0.turn.py:TURN.of: reads itself in the end: a -> c -> b -> a{ends}",
        f"10:31: metrics.1.turn.py:TURN.of: reads itself in the end: b -> a -> c -> b{ends}",
        f"11:31: metrics.2.turn.py:TURN.of: reads itself in the end: c -> b -> a -> c{ends}",
        f"12:35: metrics.3.turn.py:TURN.of: reads itself in the end: alone -> alone{ends}",
    ]


def test_a_metric_reads_the_first_artifact_it_can_of_what_another_leaves(tmp_path: Path) -> None:
    turn = CIRCLE.replace(
        'reads=("curve",)', 'reads=("nothing", "curve"), of_only={"scale": ("nothing",)}'
    )
    (tmp_path / "turn.py").write_text(turn)
    (told,) = mistakes(
        tmp_path,
        "connectivity: {epochs: 2, id: bent}",
        "turn.py:TURN: {of: bent}",
        "turn.py:TURN: {of: bent, scale: 2}",
    )
    assert told.startswith("11:37: metrics.2.turn.py:TURN.scale: found 2.0, but no nothing")
    path = tmp_path / "s.yaml"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(lines[:-1]), encoding="utf-8")
    assert [request.reads for request in load_sweep(path).metrics] == [None, "curve"]


def test_artifacts_of_a_metric_are_a_tuple_of_names(tmp_path: Path) -> None:
    (tmp_path / "turn.py").write_text(CIRCLE.replace('reads=("curve",)', 'reads="curve"'))
    (told, *_) = mistakes(tmp_path, "turn.py:TURN")
    assert "reads: found the text 'curve'; allowed: a tuple of names" in told
