"""Every mistake of a sweep is told with its place, its path, what is allowed, and what may have
been meant.
"""

import re
from pathlib import Path

import numpy as np
import pytest

from phasegrid import load_sweep
from phasegrid.errors import Mistake, SweepError

GOOD: dict[str, str] = {
    "schema": "1",
    "name": "tiny",
    "dataset": "{name: digits}",
    "model": "{name: mlp}",
    "train": "{epochs: 2}",
    "load": "{param: model.width, values: [1, 2]}",
    "temperature": "{param: train.batch_size, values: [4, 8]}",
    "seeds": "3",
}


def write(folder: Path, **sections: str | None) -> Path:
    """Write a good sweep, one section a line, with some sections replaced, added or (None) left
    out.
    """
    entries = {key: value for key, value in {**GOOD, **sections}.items() if value is not None}
    path = folder / "sweep.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in entries.items()))
    return path


def mistakes(path: Path, *overrides: str) -> tuple[Mistake, ...]:
    with pytest.raises(SweepError) as caught:
        load_sweep(path, overrides)
    listed = str(caught.value).splitlines()
    found = caught.value.mistakes
    assert listed[:-1] == [str(mistake) for mistake in found]
    count = "1 mistake" if len(found) == 1 else f"{len(found)} mistakes"
    assert listed[-1] == f"{count} in {path}"
    return found


CASES = [
    # sections, path, message
    ({"schema": "2"}, "schema", "found 2; allowed: 1"),
    ({"schema": "true"}, "schema", "found true; allowed: 1"),
    ({"schema": None}, "schema", "found nothing; write schema: 1"),
    ({"name": None}, "name", "it is required"),
    ({"name": "Big"}, "name", "found 'Big'; allowed: 1 to 64"),
    ({"name": "../up"}, "name", "allowed: 1 to 64"),
    ({"name": "a..b"}, "name", "no '..'"),
    ({"name": "a/b"}, "name", "allowed: 1 to 64"),
    ({"name": '"a\\n"'}, "name", "allowed: 1 to 64"),
    ({"name": "a" * 65}, "name", "allowed: 1 to 64"),
    ({"name": "3"}, "name", "found 3; allowed: 1 to 64"),
    ({"description": "[1]"}, "description", r"found \[1\]; allowed: text"),
    ({"storage": "''"}, "storage", "found ''; allowed: text"),
    ({"sedes": "3"}, "sedes", "found the key 'sedes'.*did you mean 'seeds'"),
    # data set and model
    ({"dataset": None}, "dataset", "it is required"),
    ({"dataset": "digits"}, "dataset", "found 'digits'; allowed: a mapping with name"),
    ({"dataset": "{fraction: 1}"}, "dataset.name", "it is required"),
    ({"dataset": "{name: cifra10}"}, "dataset.name", "did you mean 'cifar10'"),
    ({"dataset": "{name: 3}"}, "dataset.name", "found 3; allowed: the name of a dataset"),
    ({"dataset": "{name: digits, fractoin: 1}"}, "dataset.fractoin", "did you mean 'fraction'"),
    ({"dataset": "{name: digits, fraction: 0}"}, "dataset.fraction", "found 0; .*greater than 0"),
    ({"dataset": "{name: digits, fraction: 2}"}, "dataset.fraction", "found 2; .*at most 1"),
    ({"dataset": "{name: digits, subset: frist}"}, "dataset.subset", "did you mean 'first'"),
    ({"dataset": "{name: npz}"}, "dataset.path", "dataset.path is empty"),
    ({"dataset": "{name: npz, path: none.npz}"}, "dataset.path", "cannot read .*none.npz"),
    ({"model": "{name: resnet81}"}, "model.name", "did you mean 'resnet18'"),
    ({"model": "{name: mlp, widht: 3}"}, "model.widht", "did you mean 'width'"),
    ({"model": "{name: mlp, depth: 1.0}"}, "model.depth", "found 1.0; allowed: an integer"),
    ({"model": "{name: mlp, depth: true}"}, "model.depth", "found true; allowed: an integer"),
    ({"model": "{name: 'gone.py:NET'}"}, "model.name", "there is no file gone.py"),
    ({"model": "{name: vgg11}"}, "model.name", r"shape \(1, 8, 8\); vgg11 takes images .* 32x32"),
    (
        {"metrics": "[accuracy, bleu]"},
        "metrics.1",
        "metric bleu takes sentence pairs, but data set digits holds images or vectors",
    ),
    # the recipe
    ({"train": "[1]"}, "train", r"found \[1\]; allowed: a mapping"),
    ({"train": "{lr: '0.1'}"}, "train.lr", "found '0.1'; allowed: a number"),
    ({"train": "{lr: 0}"}, "train.lr", "found 0; allowed: greater than 0"),
    ({"train": "{lr: .inf}"}, "train.lr", "found .inf; allowed: finite numbers"),
    ({"train": "{lr: .nan}"}, "train.lr", "found .nan; allowed: finite numbers"),
    ({"train": "{lr: true}"}, "train.lr", "found true; allowed: a number"),
    ({"train": "{learning_rate: 1}"}, "train.learning_rate", "found the key 'learning_rate'"),
    ({"train": "{momentm: 1}"}, "train.momentm", "did you mean 'momentum'"),
    ({"train": "{nesterov: 1}"}, "train.nesterov", "found 1; allowed: true or false"),
    ({"train": "{nesterov: yes}"}, "train.nesterov", "found 'yes'; allowed: true or false"),
    ({"train": "{betas: [0.9]}"}, "train.betas", r"found \[0.9\]; allowed: a list of 2"),
    ({"train": "{betas: [0.9, 1]}"}, "train.betas.1", "found 1; allowed: less than 1"),
    ({"train": "{batch_size: null}"}, "train.batch_size", "found null; allowed: an integer"),
    ({"train": "{stop: {patiense: 1}}"}, "train.stop.patiense", "did you mean 'patience'"),
    ({"train": "{stop: plateau}"}, "train.stop", "found 'plateau'; allowed: a mapping .* or null"),
    ({"train": "{schedule: cosin}"}, "train.schedule.name", "did you mean 'cosine'"),
    ({"train": "{schedule: null}"}, "train.schedule", "found null; allowed: a mapping"),
    ({"train": "{schedule: step}"}, "train.schedule", "a step schedule needs at_epochs"),
    (
        {"train": "{schedule: {name: step, at_epochs: [5, 5]}}"},
        "train.schedule.at_epochs",
        r"found \[5, 5\]; allowed: rising",
    ),
    (
        {"train": "{schedule: {name: cyclic, low: 2}}"},
        "train.schedule.low",
        "found 2; allowed: at most 1",
    ),
    (
        {"train": "{schedule: cyclic}"},
        "train.schedule",
        "found none of cycle_epochs, cycle_updates, cycles; cyclic needs one of them",
    ),
    (
        {"train": "{schedule: {name: cosine_restarts, cycles: 3, cycle_epochs: 2}}"},
        "train.schedule",
        "found cycle_epochs and cycles of",
    ),
    (
        {"train": "{schedule: {name: cosine_restarts, cycles: 3, growth: 2}}"},
        "train.schedule.growth",
        "found 2.0; it is for cosine_restarts with cycle_epochs or cycle_updates",
    ),
    ({"train": "{schedule: pieces}"}, "train.schedule", "found no points"),
    (
        {"train": "{schedule: {name: pieces, pieces: [[0.9, 1], [0.5, 1]]}}"},
        "train.schedule.pieces",
        "allowed: rising ones",
    ),
    (
        {"train": "{schedule: {name: linear, args: {period: 3}}}"},
        "train.schedule.args",
        "found the key 'args'; allowed: name, at_epochs,",
    ),
    (
        {"train": "{schedule: nowhere.py:WAVE}"},
        "train.schedule.name",
        "there is no file nowhere.py",
    ),
    ({"train": "{optimizer: adamw2}"}, "train.optimizer", "did you mean 'adamw'"),
    ({"train": "{rmsprop: {alpha: 1}}"}, "train.rmsprop.alpha", "found 1; allowed: less than 1"),
    ({"train": "{sam: {rho: -1}}"}, "train.sam.rho", "found -1; allowed: at least 0"),
    ({"train": "{sam: {radius: 1}}"}, "train.sam.radius", "allowed: rho, adaptive"),
    (
        {"train": "{nesterov: true, momentum: 0}"},
        "train.nesterov",
        "it needs momentum > 0$",
    ),
    ({"train": "{nesterov: true, optimizer: adam}"}, "train.nesterov", "it is SGD's"),
    ({"train": "{updates: 0}"}, "train.updates", r"found 0; allowed: at least 1 \(or null\)"),
    ({"train": "{updates: 9, epochs: 3}"}, "train.epochs", "beside train.updates, .*; write one"),
    ({"train": "{test_every: -1}"}, "train.test_every", "found -1; allowed: at least 0"),
    ({"train": "{batch_unit: token}"}, "train.batch_unit", "did you mean 'tokens'"),
    (
        {"train": "{batch_unit: tokens, updates: 9}", "temperature": None},
        "train.batch_unit",
        "found tokens, but the data set has no sentence pairs; allowed: examples$",
    ),
    ({"train": "{keep: lst}"}, "train.keep", "did you mean 'last'"),
    ({"train": "{keep: {}}"}, "train.keep", "found no every"),
    ({"train": "{keep: {every: 1, fin: 1}}"}, "train.keep.fin", "did you mean 'final'"),
    ({"train": "{keep: {every: 1}, keep_every: 2}"}, "train.keep", "write one"),
    ({"train": "{keep: {every: x}}"}, "train.keep_every", "found 'x'; allowed: an integer"),
    # axes
    ({"load": "3"}, "load", "found 3; allowed: a mapping with the keys param, values"),
    ({"load": "{values: [1]}"}, "load.param", "it is required"),
    ({"load": "{param: 3, values: [1]}"}, "load.param", "found 3; allowed: the path of a field"),
    ({"load": "{param: width, values: [1]}"}, "load.param", "allowed: a field of dataset, model"),
    ({"load": "{param: model, values: [1]}"}, "load.param", "allowed: a field of dataset, model"),
    (
        {"load": "{param: model.wdth, values: [1]}"},
        "load.param",
        r"'model.wdth' is no field of model 'mlp'.*did you mean 'width'",
    ),
    ({"load": "{param: train.lr.x, values: [1]}"}, "load.param", "it has no 'x'"),
    ({"load": "{param: model.width}"}, "load", "found no values; allowed: values, or start"),
    ({"load": "{param: model.width, values: []}"}, "load.values", "found 0 values"),
    ({"load": "{param: model.width, values: 3}"}, "load.values", "found 3; allowed: a list"),
    ({"load": "{param: model.width, values: null}"}, "load.values", "found null"),
    ({"load": "{param: model.width, values: [1, 1]}"}, "load.values.1", "found 1 twice"),
    ({"load": "{param: train.lr, values: [1, 1.0]}"}, "load.values.1", "found 1.0 twice"),
    ({"load": "{param: model.width, values: [0]}"}, "load.values.0", "model.width: found 0; .* 1"),
    ({"load": "{param: model.width, values: ['1']}"}, "load.values.0", "found '1'; .*an integer"),
    ({"load": "{param: model.width, values: [true]}"}, "load.values.0", "found true"),
    ({"load": "{param: model.width, valeus: [1], values: [2]}"}, "load.valeus", "mean 'values'"),
    ({"load": "{param: model.name, values: [mpl]}"}, "model.name", "did you mean 'mlp'"),
    ({"load": "{param: model.width, values: [1], num: 2}"}, "load.num", "found values and num"),
    ({"load": "{param: model.width, start: 1, num: 2}"}, "load", "found no stop"),
    ({"load": "{param: train.lr, start: a, stop: 1, num: 2}"}, "load.start", "found 'a'; .*number"),
    ({"load": "{param: train.lr, start: 1, stop: 1, num: 2}"}, "load.stop", "the same as start"),
    ({"load": "{param: train.lr, start: 1, stop: 2, num: 1}"}, "load.num", "an integer from 2"),
    ({"load": "{param: train.lr, start: 1, stop: 2, num: 2.0}"}, "load.num", "an integer from 2"),
    (
        {"load": "{param: train.lr, start: 0, stop: 1, num: 3, scale: log}"},
        "load.start",
        "found 0; allowed: a number greater than 0",
    ),
    (
        {"load": "{param: train.lr, start: 1, stop: -1, num: 3, scale: log2}"},
        "load.stop",
        r"greater than 0 \(scale is log2\)",
    ),
    (
        {"load": "{param: train.lr, start: 1, stop: 2, num: 3, scale: logg}"},
        "load.scale",
        "did you mean 'log'",
    ),
    (
        {"load": "{param: train.keep, start: 1, stop: 2, num: 3}"},
        "load.start",
        "train.keep is not a number",
    ),
    (
        {"load": "{param: model.width, start: 1, stop: 3, num: 9}"},
        "load.num",
        "rounding to integers gives 1 twice",
    ),
    ({"load": "{param: model.width, values: [1], label: 3}"}, "load.label", "allowed: text"),
    (
        {"load": "{param: train.batch_size, values: [1]}"},
        "temperature.param",
        r"which load \(train.batch_size\) varies too",
    ),
    (
        {
            "train": "{stop: null}",
            "load": "{param: train.stop.patience, values: [1]}",
        },
        "load.param",
        "is part of train.stop, which is null",
    ),
    (
        {
            "load": "{param: train.stop, values: [null]}",
            "facets": "[{param: train.stop.patience, values: [1]}]",
        },
        "load.param",
        "facets.0 .* varies too",
    ),
    ({"facets": "{}"}, "facets", "found {}; allowed: a list of axes"),
    ({"facets": "[x]"}, "facets.0", "found 'x'; allowed: a mapping"),
    (
        {
            "load": "{param: train.lr, start: 1, stop: 2, num: 9000}",
            "facets": "[{param: train.momentum, start: 0, stop: 0.5, num: 100}]",
        },
        "",
        "found a grid of 1,800,000 cells; allowed: at most 200,000",
    ),
    # data and batch
    (
        {"temperature": "{param: train.batch_size, values: [4, 1298]}"},
        "train.batch_size",
        r"found 1298, more than the 1297 training examples.*\(in the cell model.width=1, train",
    ),
    (
        {"dataset": "{name: digits, fraction: 0.01}", "temperature": None},
        "train.batch_size",
        "found 128, more than the 13 training examples; allowed: at most 13$",
    ),
    (
        {"load": "{param: train.batch_size, values: [-1]}", "temperature": None},
        "load.values.0",
        "found -1; allowed: at least 1",
    ),
    # couple (tables: test_coupling.py)
    ({"couple": "3"}, "couple", "found 3; allowed: a mapping from fields"),
    ({"couple": "{train.lrr: 1}"}, "couple.train.lrr", "did you mean 'lr'"),
    ({"couple": "{train.lr: train.batchsize}"}, "couple.train.lr", "did you mean 'batch_size'"),
    ({"couple": "{train.keep: 1 * 2}"}, "couple.train.keep", "train.keep is not a number"),
    ({"couple": "{train.lr: train.keep}"}, "couple.train.lr", "train.keep is not a number"),
    ({"couple": "{train.lr: 1 +}"}, "couple.train.lr", r"found '\+' at character 3"),
    ({"couple": "{train.lr: [1]}"}, "couple.train.lr", "allowed: a product or quotient"),
    ({"couple": "{train.lr: true}"}, "couple.train.lr", "allowed: a product or quotient"),
    ({"couple": "{train.batch_size: 2}"}, "couple.train.batch_size", "given by the axis"),
    (
        {"couple": "{train.lr: train.weight_decay, train.weight_decay: train.lr}"},
        "couple",
        "in a circle: train.lr -> train.weight_decay -> train.lr",
    ),
    (
        {"couple": "{train.lr: 1 / train.keep_every}"},
        "train.lr",
        "division by train.keep_every, which is 0 here",
    ),
    (
        {"couple": "{train.epochs: train.batch_size / 16}"},
        "train.epochs",
        r"found 0.25, which rounds to 0; allowed: 0 itself, .*\(in the cell .*train.batch_size=4\)",
    ),
    ({"couple": "{train.lr: 0 * train.batch_size}"}, "train.lr", "found 0; allowed: greater than"),
    # include and exclude
    ({"exclude": "{}"}, "exclude", "found {}; allowed: a list of mappings"),
    ({"exclude": "[{}]"}, "exclude.0", "found {}; allowed: a mapping with the keys load"),
    ({"exclude": "[{laod: 1}]"}, "exclude.0.laod", "did you mean 'load'"),
    (
        {"exclude": "[{load: 3}]"},
        "exclude.0.load",
        r"found 3, which is not on the axis; .*\[1, 2\]",
    ),
    ({"exclude": "[{load: x}]"}, "exclude.0.load", "found 'x'; allowed: an integer"),
    ({"exclude": "[{load: []}]"}, "exclude.0", "names no value of an axis"),
    ({"exclude": "[{load: 1}, {load: 1}]"}, "exclude.1", "matches nothing"),
    ({"exclude": "[{load: [1, 2]}]"}, "exclude", "leaves no cell of the grid"),
    ({"exclude": "[{load: 1, model.width: 1}]"}, "exclude.0.model.width", "axis load again"),
    ({"include": "3"}, "include", "found 3; allowed: a list of mappings"),
    ({"include": "[{load: 1}]"}, "include.0", "found no temperature"),
    ({"include": "[{load: 1, temperature: 4}]"}, "include.0", "is in the grid already"),
    ({"include": "[{load: 0, temperature: 4}]"}, "include.0.load", "found 0; allowed: at least 1"),
    (
        {"include": "[{load: 1, temperature: 5000}]"},
        "train.batch_size",
        "found 5000, more than the 1297",
    ),
    # seeds
    ({"seeds": None}, "seeds", "found nothing"),
    ({"seeds": "0"}, "seeds", "found 0; allowed: a count from 1"),
    ({"seeds": "true"}, "seeds", "found true; allowed: a count"),
    ({"seeds": "2.0"}, "seeds", "found 2.0; allowed: a count"),
    ({"seeds": "1000000000"}, "seeds", "allowed: a count from 1 to 10,000"),
    ({"seeds": "[]"}, "seeds", "found 0 seeds"),
    ({"seeds": "[1, 1]"}, "seeds.1", "found 1 twice"),
    ({"seeds": "[-1]"}, "seeds.0", "found -1; allowed: integers from 0"),
    # metrics
    ({"metrics": "{accuracy: {}}"}, "metrics", "allowed: a list of metrics"),
    ({"metrics": "[hessain]"}, "metrics.0", "did you mean 'hessian'"),
    ({"metrics": "[hessian: {exmaples: 3}]"}, "metrics.0.hessian.exmaples", "mean 'examples'"),
    ({"metrics": "[hessian: 3]"}, "metrics.0.hessian", "found 3; allowed: a mapping"),
    ({"metrics": "[{a: 1, b: 2}]"}, "metrics.0", "allowed: a name, or one name with its arg"),
    ({"metrics": "[3]"}, "metrics.0", "found 3; allowed: a name"),
    ({"metrics": "[accuracy, accuracy]"}, "metrics.1", "asked for twice"),
    ({"metrics": "[cka, cka: {pairs: first}]"}, "metrics.1", "asked for twice"),
    ({"metrics": "[cka, cka: {mixup_alpha: 16}]"}, "metrics.1", "asked for twice"),
    ({"metrics": "[distance]", "seeds": "1"}, "metrics.0.distance", "at least 2 trials"),
    ({"metrics": "[cka: {pairs: frist}]"}, "metrics.0.cka.pairs", "did you mean 'first'"),
    ({"metrics": "[accuracy: {pairs: all}]"}, "metrics.0.accuracy.pairs", "found the key 'pairs'"),
    ({"metrics": "[simplex: {modes: 4}]"}, "metrics.0.simplex.modes", "found 4, but a cell has 3"),
    ({"metrics": "[simplex: {modes: 1}]"}, "metrics.0.simplex.modes", "an integer, at least 2"),
    (
        {"metrics": "[simplex: {volume_lambda: [1, 2]}]"},
        "metrics.0.simplex.volume_lambda",
        r"found a list of 2; allowed: one number, or one per connector \(1\)",
    ),
    ({"metrics": "[simplex]", "seeds": "1"}, "metrics.0.simplex", "espro is the metric of one"),
    (
        {"metrics": "[simplex: {networks: [{seed: 0}]}]"},
        "metrics.0.simplex.networks",
        "names 1 network; simplex needs at least 2; espro is the metric of one",
    ),
    (
        {"metrics": "[simplex: {wiring: [[w0, c0], [x1, c0]]}]"},
        "metrics.0.simplex.wiring.1",
        "found 'x1'; vertices are w0, w1",
    ),
    (
        {"metrics": "[simplex: {wiring: [[w0, w1, w2, c0], [w3, c0]]}]"},
        "metrics.0.simplex.wiring.1",
        "found w3, but there are 3 modes: w0, w1, w2",
    ),
    (
        {"metrics": "[simplex: {wiring: [[w0, c0]], networks: [{seed: 0}, {seed: 2}]}]"},
        "metrics.0.simplex.wiring",
        "no simplex has w1",
    ),
    (
        {"metrics": "[simplex: {volume_lambda: [1, x]}]"},
        "metrics.0.simplex.volume_lambda.1",
        "found 'x'; allowed: a number",
    ),
    (
        {"metrics": "[cka: {pixel_noise: 3}]"},
        "metrics.0.cka.pixel_noise",
        "needs mixup_alpha: null",
    ),
    ({"metrics": "[cka: {layers: [a, a]}]"}, "metrics.0.cka.layers", "each layer once"),
    ({"metrics": "[cka: {layers: []}]"}, "metrics.0.cka.layers", "at least 1 items"),
    ({"metrics": "[cka: {mixup_alpha: 0}]"}, "metrics.0.cka.mixup_alpha", r"greater .*\(or null\)"),
    # resources and run
    ({"resources": "3"}, "resources", "found 3; allowed: a mapping"),
    ({"resources": "{num_cpu: 1}"}, "resources.num_cpu", "did you mean 'num_cpus'"),
    ({"resources": "{num_gpus: -1}"}, "resources.num_gpus", "found -1; allowed: at least 0"),
    (
        {"resources": "{memory: 4GiBB}"},
        "resources.memory",
        "allowed: bytes, or a text such as 4GiB",
    ),
    ({"resources": "{metrics: {hessian: {}}}"}, "resources.metrics.hessian", "allowed: none"),
    (
        {"resources": "{metrics: {hessian: {num_cpu: 1}}}", "metrics": "[hessian]"},
        "resources.metrics.hessian.num_cpu",
        "did you mean 'num_cpus'",
    ),
    ({"run": "[]"}, "run", r"found \[\]; allowed: a mapping"),
    ({"run": "{max_in_flight: 0}"}, "run.max_in_flight", "found 0; allowed: at least 1"),
    ({"run": "{on_error: halt}"}, "run.on_error", "allowed: 'continue' or 'stop'"),
    ({"run": "{timeout_s: 0}"}, "run.timeout_s", r"found 0; allowed: greater than 0 \(or null\)"),
    (
        {"run": "{timeout_s: 10 min}"},
        "run.timeout_s",
        r"found '10 min'; allowed: a number \(or null\)",
    ),
    ({"run": "{timeout: 60}"}, "run.timeout", r"did you mean 'timeout_s'\?"),
    ({"run": "{retries: {app: -1}}"}, "run.retries.app", "found -1; allowed: at least 0"),
    ({"run": "{retries: 3}"}, "run.retries", "found 3; allowed: a mapping"),
    # YAML
    ({"name": "tiny\nname: twice"}, "", "found the key 'name' twice"),
    ({"dataset": "!!python/name:os.system {name: digits}"}, "dataset", "tags are not allowed"),
]


@pytest.mark.parametrize(("sections", "path", "message"), CASES)
def test_a_mistake_is_told_with_path_and_reason(
    tmp_path: Path, sections: dict[str, str | None], path: str, message: str
) -> None:
    file = write(tmp_path, **sections)
    (mistake,) = mistakes(file)
    assert mistake.path == path
    assert re.search(message, mistake.message)
    lines = file.read_text().splitlines()
    assert 1 <= mistake.line <= len(lines)
    assert 1 <= mistake.column <= len(lines[mistake.line - 1]) + 1


def test_the_place_is_that_of_the_value_or_of_an_unknown_key(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "schema: 1\nname: a\ndataset: {name: digits}\nmodel:\n  name: mlp\n  widht: 3\n"
        "train:\n  lr:\n    -1\nseeds: [1, x]\n"
    )
    found = mistakes(path)
    assert [(m.line, m.column, m.path) for m in found] == [
        (6, 3, "model.widht"),
        (9, 5, "train.lr"),
        (10, 12, "seeds.1"),
    ]
    assert str(found[1]) == f"{path}:9:5: train.lr: found -1; allowed: greater than 0"


def test_a_cells_mistake_stands_at_the_value_on_its_axis(tmp_path: Path) -> None:
    path = write(tmp_path, temperature="{param: train.batch_size, values: [4, 1298, 2000]}")
    text = path.read_text().splitlines()
    found = mistakes(path)
    assert [text[m.line - 1][m.column - 1 :][:4] for m in found] == ["1298", "2000"]


def test_every_mistake_is_told_at_once_in_the_order_of_lines(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        schema="2",
        name="Bad",
        model="{name: mlp, widht: 3}",
        train="{lr: -1, stop: {patience: x}, nesterov: true, momentum: 0}",
        load="{param: model.width, values: [1, 1, x]}",
        temperature="{param: train.momentm, values: [1]}",
        seeds="[0, 0]",
        metrics="[hessain, cka: {pixel_noise: 1}]",
        run="{retries: {app: x}}",
        nonsense="1",
    )
    found = mistakes(path)
    assert [m.path for m in found] == [
        "schema",
        "name",
        "model.widht",
        "train.lr",
        "train.stop.patience",
        "train.nesterov",
        "load.values.1",
        "load.values.2",
        "temperature.param",
        "seeds.1",
        "metrics.0",
        "metrics.1.cka.pixel_noise",
        "run.retries.app",
        "nonsense",
    ]
    assert list(found) == sorted(found, key=lambda m: (m.line, m.column))


def test_one_mistake_is_not_told_as_two(tmp_path: Path) -> None:
    broken_batch = write(tmp_path, train="{batch_size: -1}", temperature=None)
    assert [m.path for m in mistakes(broken_batch)] == ["train.batch_size"]
    broken_axis = write(tmp_path, load="{param: nothing, values: [1]}", exclude="[{load: 1}]")
    assert [m.path for m in mistakes(broken_axis)] == ["load.param"]
    broken_momentum = write(tmp_path, train="{nesterov: true, momentum: -1}")
    assert [m.path for m in mistakes(broken_momentum)] == ["train.momentum"]
    not_finite = write(tmp_path, seeds=".inf")
    assert [m.path for m in mistakes(not_finite)] == ["seeds"]


def test_a_recipe_is_checked_even_where_no_cell_can_be_built(tmp_path: Path) -> None:
    path = write(tmp_path, model="{name: nothing_like_it}", train="{schedule: step}")
    assert [m.path for m in mistakes(path)] == ["model.name", "train.schedule"]


def test_a_mistake_for_one_of_several_models_names_it(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        model="{depth: 2}",
        facets="[{param: model.name, values: [mlp, small_cnn]}]",
    )
    (mistake,) = mistakes(path)
    assert re.search(r"found the key 'depth'.*\(for model 'small_cnn'\)", mistake.message)


def test_a_long_list_of_mistakes_is_cut_in_the_message_only(tmp_path: Path) -> None:
    path = write(tmp_path, load=f"{{param: model.width, values: {[-i for i in range(1, 301)]}}}")
    with pytest.raises(SweepError, match=r"\.\.\. and 200 more\n300 mistakes in ") as caught:
        load_sweep(path)
    assert len(caught.value.mistakes) == 300


def test_a_file_that_cannot_be_read_is_a_sweep_error(tmp_path: Path) -> None:
    (mistake,) = mistakes(tmp_path / "none.yaml")
    assert str(mistake) == f"{tmp_path / 'none.yaml'}: cannot be read: No such file or directory"
    mistakes(tmp_path)
    path = tmp_path / "s.yaml"
    for text, message in (
        ("", "it is empty"),
        ("- a", "a sweep is a mapping"),
        ("a: [", "not valid YAML"),
    ):
        path.write_text(text)
        (mistake,) = mistakes(path)
        assert message in mistake.message


def test_damaged_data_is_a_mistake_at_its_path(tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    np.savez(data, train_labels=np.zeros(3, dtype=np.int64))
    path = write(tmp_path, dataset=f"{{name: npz, path: '{data}'}}", temperature=None)
    (mistake,) = mistakes(path)
    assert (mistake.path, mistake.line) == ("dataset.path", 3)
    assert re.search("train_images or train_inputs is missing", mistake.message)


SENTENCES = """
from dataclasses import dataclass
from torch import nn
from phasegrid.declare import DatasetFacts, DatasetKind, Model, Tokens

@dataclass(frozen=True)
class Args:
    width: int = 1

def facts(args):
    return DatasetFacts(50, 10, (2, 9), 40, "translation", Tokens(9, 30, 40), 7.5)

def load(width):
    return open("/nowhere/at/all")

class Net(nn.Embedding):
    def forward(self, sentences):
        return super().forward(sentences[:, 1])

DATA = DatasetKind(Args, load, facts)
NET = Model(Args, lambda tokens, width: Net(40, 40), takes="translation")
"""


def test_a_batch_of_tokens_needs_updates_and_sentences_and_may_be_larger_than_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHASEGRID_PLUGIN_PATH", "")
    digits = mistakes(write(tmp_path, train="{batch_unit: tokens}", temperature=None))
    assert [m.path for m in digits] == ["train.updates", "train.batch_unit"]
    assert re.match("found null with batch_unit tokens.*as in updates: 100000", digits[0].message)
    (tmp_path / "mine.py").write_text(SENTENCES)
    sentences: dict[str, str | None] = {
        "dataset": "{name: 'mine.py:DATA'}",
        "model": "{name: 'mine.py:NET'}",
        "temperature": "{param: train.batch_size, values: [9, 512]}",
    }
    (mistake,) = mistakes(write(tmp_path, **sentences, train="{batch_unit: tokens}"))
    assert mistake.path == "train.updates"
    (mistake,) = mistakes(write(tmp_path, **sentences, train="{updates: 9}"))
    assert re.match("found 512, more than the 50 training examples", mistake.message)
    fine = (
        "{batch_unit: tokens, updates: 9, stop: {patience: 1}, schedule: {name: step, at_epochs:"
        " [2]}}"
    )
    assert len(load_sweep(write(tmp_path, **sentences, train=fine)).points) == 4
    sentences["temperature"] = "{param: train.batch_size, values: [8, 512]}"
    (mistake,) = mistakes(write(tmp_path, **sentences, train=fine))
    assert re.match("found 8 tokens, but a sentence has 9; allowed: at least 9", mistake.message)


def test_epochs_of_an_extended_sweep_may_stand_beside_updates(tmp_path: Path) -> None:
    write(tmp_path, train="{epochs: 3}").rename(tmp_path / "parent.yaml")
    child = tmp_path / "child.yaml"
    child.write_text("extends: parent.yaml\ntrain: {updates: 9, batch_size: 4}\n")
    for sweep in (load_sweep(child), load_sweep(tmp_path / "parent.yaml", ["train.updates=9"])):
        assert (sweep.points[0].recipe["updates"], sweep.points[0].recipe["epochs"]) == (9, 3)
    child.write_text("extends: parent.yaml\ntrain: {updates: null, epochs: 4}\n")
    assert load_sweep(child).points[0].recipe["epochs"] == 4


PLUGIN = """
from dataclasses import dataclass
from phasegrid.declare import DatasetFacts, DatasetKind, Model

@dataclass(frozen=True)
class Args:
    size: int

@dataclass(frozen=True)
class Odd:
    size: "no such type" = 3

def fails(args):
    return 1 / 0

NET = Model(Args, print)
ODD = Model(Odd, print)
DATA = DatasetKind(Args, print, fails)
"""


def test_mistakes_of_and_in_plug_ins_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHASEGRID_PLUGIN_PATH", "")
    (tmp_path / "mine.py").write_text(PLUGIN)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.py").write_text(PLUGIN)

    def message(**sections: str | None) -> str:
        (mistake,) = mistakes(write(tmp_path, **sections))
        return f"{mistake.path}: {mistake.message}"

    net = "{name: 'mine.py:NET'}"
    assert message(model=net, load=None) == "model.size: found nothing; it is required"
    assert re.search(
        "arguments of Odd cannot be read", message(model="{name: 'mine.py:ODD'}", load=None)
    )
    data = "{name: 'mine.py:DATA', size: 2}"
    assert re.search("ZeroDivisionError: division by zero", message(dataset=data))
    both = {
        "dataset": "{name: 'b/mine.py:DATA', size: 2}",
        "model": "{name: 'mine.py:NET', size: 1}",
    }
    assert re.search("two files called mine.py", message(**both, load=None))
