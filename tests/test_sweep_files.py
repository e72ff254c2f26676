"""``extends`` and ``--set``: where values come from, and that their places are kept."""

import re
from pathlib import Path

import pytest

from phasegrid import load_sweep
from phasegrid.config.load import Sweep
from phasegrid.errors import SweepError

PARENT = """\
schema: 1
name: parent
dataset: {name: digits}
model: {name: mlp, depth: 3}
train: {lr: 0.1, epochs: 7, stop: {patience: 2}}
load: {param: model.width, start: 2, stop: 8, num: 4, label: width}
temperature: {param: train.batch_size, values: [4, 8]}
seeds: 2
metrics: [accuracy, hessian: {examples: 50}]
"""


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    path = tmp_path / "base" / "parent.yaml"
    path.parent.mkdir()
    path.write_text(PARENT)
    return path


def child(parent: Path, text: str) -> Path:
    path = parent.parent.parent / "child.yaml"
    path.write_text(f"extends: base/parent.yaml\n{text}")
    return path


def messages(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(SweepError) as caught:
        load_sweep(path, overrides)
    return [str(mistake) for mistake in caught.value.mistakes]


def values(sweep: Sweep) -> tuple[object, ...]:
    assert sweep.load is not None
    return sweep.load.values


def test_a_child_is_merged_over_its_parent(parent: Path) -> None:
    sweep = load_sweep(child(parent, "name: child\ntrain: {lr: 1, stop: {min_delta: 0.5}}\n"))
    point = sweep.points[0]
    assert (sweep.name, sweep.seeds) == ("child", (0, 1))
    assert (point.recipe["lr"], point.recipe["epochs"]) == (1.0, 7)
    assert point.recipe["stop"] == {"rule": "plateau", "min_delta": 0.5, "patience": 2}
    assert point.model.args["depth"] == 3


def test_lists_are_replaced(parent: Path) -> None:
    assert [m.name for m in load_sweep(child(parent, "metrics: [cka]")).metrics] == ["cka"]


def test_another_model_replaces_the_parents_arguments(parent: Path) -> None:
    sweep = load_sweep(child(parent, "model: {name: small_cnn}"))
    assert sweep.points[0].model.args == {"width": 2, "batch_norm": False}
    same = load_sweep(child(parent, "model: {name: mlp, activation: tanh}"))
    assert same.points[0].model.args == {"width": 2, "depth": 3, "activation": "tanh"}


def test_values_of_an_axis_replace_a_parents_range_and_back(parent: Path) -> None:
    assert values(load_sweep(child(parent, "load: {values: [1, 5]}"))) == (1, 5)
    back = load_sweep(child(parent, "temperature: {start: 1, stop: 3, num: 3}"))
    assert back.temperature is not None
    assert back.temperature.values == (1, 2, 3)
    other = load_sweep(child(parent, "load: {param: train.lr, values: [1]}"))
    assert other.load is not None
    assert (other.load.path, other.load.label) == ("train.lr", None)


def test_an_axis_can_be_taken_away(parent: Path) -> None:
    assert load_sweep(child(parent, "load: null")).load is None


def test_later_parents_win_over_earlier_ones(parent: Path) -> None:
    (parent.parent / "more.yaml").write_text("train: {lr: 0.5}\nseeds: 4\n")
    path = parent.parent / "child.yaml"
    path.write_text("extends: [parent.yaml, more.yaml]\nseeds: 1\n")
    sweep = load_sweep(path)
    assert (sweep.points[0].recipe["lr"], sweep.points[0].recipe["epochs"]) == (0.5, 7)
    assert sweep.seeds == (0,)


def test_a_mistake_stands_in_the_file_it_was_written_in(parent: Path) -> None:
    parent.write_text(PARENT.replace("depth: 3", "depth: x"))
    path = child(parent, "train: {lr: -1}\n")
    assert messages(path) == [
        f"{path}:2:13: train.lr: found -1; allowed: greater than 0",
        f"{path.parent / 'base/parent.yaml'}:4:27: model.depth: found 'x'; allowed: an integer",
    ]


def test_sweeps_must_not_extend_each_other_in_a_circle(parent: Path) -> None:
    parent.write_text("extends: ../child.yaml\n" + PARENT)
    (message,) = messages(child(parent, ""))
    assert re.search(
        "parent.yaml:1:10: extends: .* in a circle: child.yaml -> parent.yaml -> child.yaml",
        message,
    )
    itself = parent.parent / "self.yaml"
    itself.write_text("extends: self.yaml\n" + PARENT)
    assert "self.yaml -> self.yaml" in messages(itself)[0]


def test_a_parent_can_be_reached_twice(parent: Path) -> None:
    for name in ("a", "b"):
        (parent.parent / f"{name}.yaml").write_text(f"extends: parent.yaml\ndescription: {name}\n")
    path = parent.parent / "c.yaml"
    path.write_text("extends: [a.yaml, b.yaml]")
    assert load_sweep(path).description == "b"


def test_parents_that_cannot_be_read_are_mistakes(parent: Path) -> None:
    path = parent.parent / "c.yaml"
    for text, message in (
        ("none.yaml", r"c.yaml:1:10: extends: there is no file .*none.yaml"),
        ("3", "found 3; allowed: the path of a sweep file"),
        ("[parent.yaml, '']", "c.yaml:1:24: extends: found ''"),
        ('"a\\0b"', "there is no file"),
    ):
        path.write_text(f"extends: {text}\n{PARENT}")
        (found,) = messages(path)
        assert re.search(message, found)
    (parent.parent / "bad.yaml").write_text("a: [")
    path.write_text(f"extends: bad.yaml\n{PARENT}")
    assert re.search(r"bad.yaml:1:5: this is not valid YAML", messages(path)[0])


def test_chains_of_parents_end(parent: Path) -> None:
    for i in range(40):
        (parent.parent / f"{i}.yaml").write_text(f"extends: {i + 1}.yaml\n{PARENT}")
    (parent.parent / "40.yaml").write_text(PARENT)
    assert "more than 32 files extend each other" in messages(parent.parent / "0.yaml")[0]


def test_overrides_are_yaml_and_win(parent: Path) -> None:
    sweep = load_sweep(
        child(parent, "train: {lr: 1}"),
        [
            "train.lr=1e-3",
            "train.schedule=cosine",
            "train.stop=",
            "load.values=[1, 2]",
            "metrics.hessian.examples=60",
            "metrics.0.ece_bins=4",
            "metrics.0.accuracy.ece_bins=5",
            "couple.train.weight_decay=train.lr / 10",
            "run.retries.app=2",
            "name = set",
        ],
    )
    point = sweep.points[0]
    assert point.recipe["lr"] == 1e-3
    assert point.recipe["stop"] is None
    assert point.recipe["weight_decay"] == 1e-4
    assert values(sweep) == (1, 2)
    assert [m.part.args.get("examples", m.part.args.get("ece_bins")) for m in sweep.metrics] == [
        5,
        60,
    ]
    assert (sweep.run.retries.app, sweep.name) == (2, "set")


def test_an_override_replaces_a_section_given_whole(parent: Path) -> None:
    sweep = load_sweep(parent, ["model={name: small_cnn}"])
    assert sweep.points[0].model.args == {"width": 2, "batch_norm": False}


def test_overrides_follow_each_other(parent: Path) -> None:
    assert load_sweep(parent, ["seeds=3", "seeds=4"]).seeds == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lrr=1", "--set #1: train.lrr: found the key 'lrr'.*did you mean 'lr'"),
        ("trian.lr=1", "--set #1: trian: found the key 'trian'.*did you mean 'train'"),
        ("train.lr=-1", "--set #1: train.lr: found -1; allowed: greater than 0$"),
        ("train.lr='1'", "--set #1: train.lr: found '1'; allowed: a number"),
        ("train.lr", "--set #1: found 'train.lr'; allowed: path=value"),
        ("=1", "--set #1: found '=1'; allowed: path=value"),
        ("train..lr=1", "--set #1: found 'train..lr=1'; allowed: path=value"),
        ("train.lr=[1", "--set #1: train.lr: this is not valid YAML"),
        ("train.lr=!x 1", "--set #1: found the tag !x"),
        ("name.x=1", "--set #1: name.x: found 'parent' before 'x'; it has no parts"),
        ("metrics.9.x=1", "--set #1: metrics.9.x: found item 9; allowed: 0 to 1"),
        ("metrics.hesian.x=1", "--set #1: .*'hesian' is no item here.*did you mean 'hessian'"),
        ("metrics.hessian.x=1", "--set #1: metrics.1.hessian.x: found the key 'x'"),
        ("extends=other.yaml", "--set #1: extends: cannot be set"),
        ("seeds.0=1", "--set #1: seeds.0: found 2 before '0'; it has no parts"),
        ("load.values=[1, 0]", "--set #1: load.values.1: model.width: found 0"),
        ("train.batch_size=0", "--set #1: train.batch_size: found 0; allowed: at least 1"),
    ],
)
def test_a_wrong_override_is_a_mistake_of_its_own_place(
    parent: Path, override: str, message: str
) -> None:
    found = messages(parent, override)
    assert len(found) == 1
    assert re.match(message, found[0])


def test_an_override_by_a_name_that_stands_twice_needs_a_number(parent: Path) -> None:
    parent.write_text(PARENT.replace("[accuracy,", "[hessian,"))
    (found,) = messages(parent, "metrics.hessian.examples=3")
    assert "stands here more than once: give its number" in found
