"""Fields tied by a table take its value in every cell, and what is wrong with a table is told at
its place.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_sweep_mistakes import mistakes, write

from phasegrid import load_sweep
from phasegrid.config.load import Sweep

BASE = """\
schema: 1
name: tiny
dataset: {name: digits}
model: {name: mlp, depth: 1}
temperature: {param: train.batch_size, values: [16, 24, 32]}
seeds: 1
"""

Load = Callable[..., Sweep]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def write_and_load(extra: str, *overrides: str, base: str = BASE) -> Sweep:
        path = tmp_path / "sweep.yaml"
        path.write_text(base + extra, encoding="utf-8")
        return load_sweep(path, overrides)

    return write_and_load


def recipes(sweep: Sweep, field: str) -> list[Any]:
    return [point.recipe[field] for point in sweep.points]


def test_a_table_gives_a_field_a_value_for_each_value_of_another(load: Load) -> None:
    table = "{by: train.batch_size, values: {16: 50, 24: 60}, otherwise: 80}"
    assert recipes(load(f"couple: {{train.epochs: {table}}}"), "epochs") == [50, 60, 80]


def test_a_tied_trial_is_the_trial_with_the_value_written_out(load: Load) -> None:
    tied = load("couple: {train.epochs: {by: train.batch_size, values: {16: 5, 24: 5, 32: 5}}}")
    plain = load("train: {epochs: 5}")
    assert tied.points == plain.points


@pytest.mark.parametrize("keys", ["16: 1, 24: 2, 32: 3", "'16': 1, 0x18: 2, 32: 3"])
def test_keys_are_values_of_the_field_however_they_are_written(load: Load, keys: str) -> None:
    sweep = load(f"couple: {{train.epochs: {{by: train.batch_size, values: {{{keys}}}}}}}")
    assert recipes(sweep, "epochs") == [1, 2, 3]


def test_numbers_are_compared_as_numbers(load: Load) -> None:
    sweep = load(
        "load: {param: train.lr, values: [1, 0.1]}\n"
        "couple: {train.epochs: {by: train.lr, values: {1.0: 3, 1e-1: 4}}}\n"
    )
    assert recipes(sweep, "epochs") == [3, 3, 3, 4, 4, 4]


def test_keys_can_be_null_truths_and_text(load: Load) -> None:
    null = load("couple: {train.epochs: {by: train.updates, values: {null: 7}}}")
    assert recipes(null, "epochs") == [7, 7, 7]
    truth = load(
        "load: {param: train.nesterov, values: [false, true]}\n"
        "couple: {train.epochs: {by: train.nesterov, values: {false: 1, true: 2}}}\n"
    )
    assert recipes(truth, "epochs") == [1, 1, 1, 2, 2, 2]
    text = load("couple: {train.epochs: {by: train.optimizer, values: {sgd: 9}}}")
    assert recipes(text, "epochs") == [9, 9, 9]


def test_any_field_can_be_tied(load: Load) -> None:
    sweep = load("""\
couple:
  train.keep: {by: train.batch_size, values: {16: last}, otherwise: best_test_loss}
  train.updates: {by: train.batch_size, values: {16: 100, 24: null, 32: null}}
  train.schedule: {by: train.batch_size, values: {16: cosine, 24: {name: step, at_epochs: [3]}, 32: constant}}
  train.stop: {by: train.batch_size, values: {16: null, 24: {patience: 3}, 32: {}}}
  model.activation: {by: train.batch_size, values: {16: relu}, otherwise: tanh}
""")
    assert recipes(sweep, "keep") == ["last", "best_test_loss", "best_test_loss"]
    assert recipes(sweep, "updates") == [100, None, None]
    names = [schedule["name"] for schedule in recipes(sweep, "schedule")]
    assert names == ["cosine", "step", "constant"]
    stops = recipes(sweep, "stop")
    assert stops[0] is None
    assert [stop["patience"] for stop in stops[1:]] == [3, 5]
    assert [point.model.args["activation"] for point in sweep.points] == ["relu", "tanh", "tanh"]


def test_tables_and_expressions_can_build_on_each_other(load: Load) -> None:
    sweep = load("""\
couple:
  train.label_smoothing: 0.1 * train.schedule.final
  train.schedule: {by: train.epochs, values: {100: {name: cosine, final: 0.5}}, otherwise: linear}
  train.epochs: 1600 / train.batch_size
""")
    assert recipes(sweep, "epochs") == [100, 67, 50]
    assert recipes(sweep, "label_smoothing") == [0.05, 0.0, 0.0]


def test_a_table_can_go_by_a_part_of_an_axis_or_by_the_name_of_the_model(load: Load) -> None:
    part = load(
        "facets: [{param: train.schedule, values: [{name: cosine, final: 0.5}, linear]}]\n"
        "couple: {train.epochs: {by: train.schedule.name, values: {cosine: 3, linear: 4}}}\n"
    )
    assert recipes(part, "epochs") == [3, 3, 3, 4, 4, 4]
    name = load(
        "load: {param: model.name, values: [mlp, small_cnn]}\n"
        "couple:\n"
        "  train.epochs: {by: model.name, values: {mlp: 3, small_cnn: 4}}\n"
        "  model.width: {by: train.epochs, values: {3: 8, 4: 9}}\n",
        base=BASE.replace("{name: mlp, depth: 1}", "{}"),
    )
    assert recipes(name, "epochs") == [3, 3, 3, 4, 4, 4]
    assert [point.model.args["width"] for point in name.points] == [8, 8, 8, 9, 9, 9]


def test_a_quotient_tied_to_an_integer_is_rounded_half_up(load: Load) -> None:
    sweep = load(
        "load: {param: dataset.fraction, values: [0.1, 0.4, 0.7, 1]}\n"
        "couple: {train.epochs: 15 / dataset.fraction}\n",
        "temperature=null",
        "train.batch_size=16",
    )
    assert recipes(sweep, "epochs") == [150, 38, 21, 15]  # 37.5 and 21.43


def test_a_table_replaces_that_of_an_extended_sweep(load: Load, tmp_path: Path) -> None:
    couple = "couple: {train.epochs: {by: train.batch_size, values: {16: 1, 24: 2, 32: 3}}}\n"
    (tmp_path / "parent.yaml").write_text(BASE + couple)
    sweep = load(
        "couple: {train.epochs: {by: train.batch_size, values: {16: 9}}}\n",
        base="extends: parent.yaml\ntemperature: {values: [16]}\n",
    )
    assert recipes(sweep, "epochs") == [9]


def test_a_table_can_be_set_from_the_command_line(load: Load) -> None:
    given = "couple.train.epochs={by: train.batch_size, values: {16: 1}, otherwise: 2}"
    assert recipes(load("", given), "epochs") == [1, 2, 2]


def table(text: str) -> dict[str, str]:
    return {"couple": f"{{train.epochs: {text}}}", "train": "{}"}


CASES = [
    # sections, path, message
    (table("{values: {4: 1, 8: 1}}"), "couple.train.epochs.by", "found nothing; it is required"),
    (table("{by: 3, values: {4: 1}}"), "couple.train.epochs.by", "found 3; allowed: the path of"),
    (table("{by: train.btch_size, values: {4: 1}}"), "couple.train.epochs.by", "mean 'batch_size'"),
    (table("{by: train.stop, values: {4: 1}}"), "couple.train.epochs.by", "not a single value"),
    (table("{by: train.betas, values: {4: 1}}"), "couple.train.epochs.by", "not a single value"),
    (
        table("{by: train.batch_size, vlaues: {4: 1}, values: {4: 1, 8: 1}}"),
        "couple.train.epochs.vlaues",
        "did you mean 'values'",
    ),
    (
        table("{by: train.batch_size}"),
        "couple.train.epochs.values",
        "found nothing; it is required",
    ),
    (
        table("{by: train.batch_size, values: {}}"),
        "couple.train.epochs.values",
        "found {}; allowed",
    ),
    (
        table("{by: train.batch_size, values: [1]}"),
        "couple.train.epochs.values",
        r"found \[1\]; al",
    ),
    (
        table("{by: train.batch_size, values: {4: 1, x: 1, 8: 1}}"),
        "couple.train.epochs.values.x",
        "train.batch_size: found 'x'; allowed: an integer",
    ),
    (
        table("{by: train.batch_size, values: {4: 1, -8: 1, 8: 1}}"),
        "couple.train.epochs.values.-8",
        "train.batch_size: found -8; allowed: at least 1",
    ),
    (
        table("{by: train.keep, values: {best_train_loss: 1, lst: 2}}"),
        "couple.train.epochs.values.lst",
        "did you mean 'last'",
    ),
    (
        table("{by: model.name, values: {mpl: 1}}"),
        "couple.train.epochs.values.mpl",
        "found 'mpl'; allowed: mlp; did you mean 'mlp'",
    ),
    (
        table("{by: train.lr, values: {0.05: 1, '5e-2': 1}}"),
        "couple.train.epochs.values.5e-2",
        "found 0.05 twice, once as 5e-2",
    ),
    (
        table("{by: train.lr, values: {0.05: 1, '.inf': 1}}"),
        "couple.train.epochs.values..inf",
        "found '.inf'; allowed: a number",
    ),
    (
        table("{by: train.batch_size, values: {4: -1, 8: 1}}"),
        "couple.train.epochs.values.4",
        "train.epochs: found -1; allowed: at least 0",
    ),
    (
        table("{by: train.batch_size, values: {4: 1}, otherwise: x}"),
        "couple.train.epochs.otherwise",
        "train.epochs: found 'x'; allowed: an integer",
    ),
    (
        table("{by: train.batch_size, values: {4: 1}}"),
        "train.epochs",
        r"train.batch_size is 8, for which the table has no value; allowed: 4, or write otherwise "
        r"\(in the cell model.width=1, train.batch_size=8\)",
    ),
    (
        table("{by: train.batch_size, values: {4: 1, 8: 1, 80: 1}}"),
        "couple.train.epochs.values.80",
        "found the key 80, but train.batch_size is 4, 8 in this sweep; remove it; did you mean '8'",
    ),
    (
        table("{by: train.epochs, values: {2: 1}}"),
        "couple",
        "in a circle: train.epochs -> train.epochs",
    ),
    (
        {"couple": "{train.schedule: {by: train.schedule.name, values: {cosine: linear}}}"},
        "couple",
        "in a circle: train.schedule -> train.schedule",
    ),
    (
        {
            "couple": (
                "{train.stop: {by: train.lr, values: {0.05: null}}, train.lr: 0.1 *"
                " train.stop.patience}"
            )
        },
        "couple",
        "in a circle: train.stop -> train.lr -> train.stop",
    ),
    (
        {"couple": "{train.batch_size: {by: train.lr, values: {0.05: 3}}}"},
        "couple.train.batch_size",
        "given by the axis, expression or table train.batch_size already",
    ),
    (
        {
            "couple": (
                "{train.schedule: {by: train.batch_size, values: {4: step}, otherwise: linear}}"
            )
        },
        "train.schedule",
        "a step schedule needs at_epochs",
    ),
    ({"couple": "{train.keep: last}"}, "couple.train.keep", "not a number; allowed: a table"),
]


@pytest.mark.parametrize(("sections", "path", "message"), CASES)
def test_a_mistake_in_a_table_is_told_with_path_and_reason(
    tmp_path: Path, sections: dict[str, str | None], path: str, message: str
) -> None:
    (mistake,) = mistakes(write(tmp_path, **sections))
    assert mistake.path == path
    assert re.search(message, mistake.message)
    assert mistake.line > 0


def test_every_value_without_an_entry_and_every_idle_key_are_told_at_once(tmp_path: Path) -> None:
    wide = "{param: train.batch_size, values: [4, 8, 16]}"
    sections = table("{by: train.batch_size, values: {4: 1, 5: 1, 6: 1}}")
    found = mistakes(write(tmp_path, **sections, temperature=wide))
    assert [m.path for m in found] == [
        "train.epochs",
        "train.epochs",
        "couple.train.epochs.values.5",
        "couple.train.epochs.values.6",
    ]
    assert {m.message.split(",")[0] for m in found[:2]} == {
        "train.batch_size is 8",
        "train.batch_size is 16",
    }


def test_what_follows_from_another_mistake_is_not_told(tmp_path: Path) -> None:
    sections = table("{by: train.batch_size, values: {4: 1, 8: 2}}")
    axis = write(tmp_path, **sections, temperature="{param: train.batch_size, values: [4, x]}")
    assert [m.path for m in mistakes(axis)] == ["temperature.values.1"]
    chain = (
        "{train.epochs: {by: train.batch_size, values: {4: 1}},"
        " train.lr: {by: train.epochs, values: {1: 1, 2: 1}}}"
    )
    missing = write(tmp_path, couple=chain, train="{}")
    assert [m.path for m in mistakes(missing)] == ["train.epochs"]
    no_table = "{train.schedule: {by: train.batch_size, values: {4: stp, 8: linear}}}"
    broken = write(tmp_path, couple=no_table, train="{schedule: step}")
    assert [m.path for m in mistakes(broken)] == ["couple.train.schedule.values.4"]


def test_a_result_below_the_bound_is_not_rounded_up_to_it(tmp_path: Path) -> None:
    couple = "{train.updates: 3.6 / train.batch_size}"
    (mistake,) = mistakes(write(tmp_path, couple=couple, train="{}"))
    assert re.search(r"found 0.9; allowed: at least 1 \(or null\) \(in the cell", mistake.message)
