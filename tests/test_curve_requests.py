"""Requests for curves that make no sense are mistakes of the sweep, at their place."""

from pathlib import Path

import pytest

from phasegrid import load_sweep
from phasegrid.errors import SweepError

SWEEP = """\
schema: 1
name: curves
dataset: {name: digits}
model: {name: mlp}
train: {epochs: 1, batch_size: 8}
seeds: 2
metrics:
"""


def mistakes(folder: Path, *requests: str) -> list[str]:
    """Return what is said about requests, without the name of the file."""
    path = folder / "s.yaml"
    path.write_text(SWEEP + "".join(f"  - {request}\n" for request in requests))
    with pytest.raises(SweepError) as raised:
        load_sweep(path)
    lines = [line for line in str(raised.value).splitlines() if "s.yaml:" in line]
    return [line.partition("s.yaml:")[2] for line in lines]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            "connectivity: {curve: random_segment}",
            "8:19: metrics.0.connectivity.bends: found 1, but a random segment has no bends; write"
            " bends: 0",
        ),
        (
            "connectivity: {curve: random_segment, bends: 2}",
            "8:50: metrics.0.connectivity.bends: found 2, but a random segment has no bends; write"
            " bends: 0",
        ),
        ("connectivity: {bends: 1, epochs: 0}", "8:38: metrics.0.connectivity.epochs: found 0"),
        ("connectivity: {bends: -1}", "8:27: metrics.0.connectivity.bends: found -1"),
        ("connectivity: {bends: 65}", "8:27: metrics.0.connectivity.bends: found 65"),
        ("connectivity: {points: 2}", "8:28: metrics.0.connectivity.points: found 2"),
        ("connectivity: {init: middle}", "8:26: metrics.0.connectivity.init: found"),
        ("connectivity: {curve: segment}", "8:27: metrics.0.connectivity.curve: found"),
        ("connectivity: {updates: 0}", "8:29: metrics.0.connectivity.updates: found 0"),
    ],
)
def test_what_no_curve_can_be_is_refused_at_its_place(
    tmp_path: Path, written: str, message: str
) -> None:
    (found,) = mistakes(tmp_path, written)
    assert found.startswith(message)


def test_every_mistake_of_curves_is_told_at_once(tmp_path: Path) -> None:
    assert (
        len(mistakes(tmp_path, "connectivity: {bends: -1, points: 2}", "connectivity: {lr: 0}"))
        == 3
    )


def test_ends_that_no_curve_can_join_are_refused_at_their_place(tmp_path: Path) -> None:
    wide = "{seed: 0, model.width: 4}, {seed: 1, model.width: 8}"
    text = SWEEP.replace("seeds: 2", "seeds: 2\nload: {param: model.width, values: [4, 8]}")
    path = tmp_path / "s.yaml"
    asked = [
        f"{{networks: [{wide}], over: across}}",
        "{networks: [{seed: 0, at: 1}, {seed: 1}]}",
        "{networks: [{seed: 0}, {seed: 5}]}",
        "{networks: [{seed: 0}]}",
    ]
    path.write_text(text + "".join(f"  - connectivity: {one}\n" for one in asked))
    with pytest.raises(SweepError) as raised:
        load_sweep(path)
    for place, message in (
        ("9:30", "different numbers of parameters"),
        ("10:45", "the trials publish no checkpoints"),
        ("11:49", "no trial has 5; there are 0, 1"),
        ("12:30", "names 1 network; connectivity needs exactly 2"),
    ):
        assert any(
            f":{place}:" in line and message in line for line in str(raised.value).split("\n")
        )
