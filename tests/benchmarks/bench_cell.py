"""The Hessians of a cell of five seeds, as a worker does them, against PyHessian's three calls for
each seed.

ResNet18 of width 8, 200 images of 32x32. Ours is a pack of five jobs from the stored checkpoints to
the stored rows, with the exact trace. The other way loads the same checkpoints and calls
eigenvalues(), trace() and density() of PyHessian 0.1 at its defaults (the removed `torch.eig` put
back). One thread, each way in a process of its own, CPU seconds of one turn each: five seeds are
the repetitions.
"""

import copy
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from phasegrid import load_sweep
from phasegrid.metrics.hessian.preparing import draw_examples
from phasegrid.packs import Pack
from phasegrid.plan.contents import metric_names
from phasegrid.plan.packing import make_packs
from phasegrid.plan.plan import make_plan
from phasegrid.run.executors.base import PackOptions
from phasegrid.run.status import stored_keys
from phasegrid.run.worker.inputs import load_module
from phasegrid.run.worker.loaded_data import dataset_of
from phasegrid.run.worker.malloc import keep_freed_memory
from phasegrid.run.worker.pack import do
from phasegrid.store.store import Store
from tests.benchmarks.bench_hessian import _removed_function
from tests.benchmarks.contest import compete, line

SEEDS, EXAMPLES = 5, 200
SWEEP = f"""\
schema: 1
name: cell
dataset: {{name: npz, path: patterns.npz}}
model: {{name: resnet18, width: 8}}
train: {{lr: 0.05, momentum: 0.9, batch_size: 50, epochs: 8, stop: null}}
seeds: {SEEDS}
metrics:
  - hessian: {{examples: {EXAMPLES}}}
"""
CPU = torch.device("cpu")


def main() -> list[str]:
    """Return the ratio of a cell, or why there is none."""
    try:
        import pyhessian  # noqa: F401 - only to know
    except ImportError:
        return ["hessians of a cell | PyHessian 0.1 | not measured: it is not installed | reach 4x"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_patterns(folder / "patterns.npz")
        (folder / "cell.yaml").write_text(SWEEP)
        torch.set_num_threads(1)
        store = Store.open(str(folder / "store"), create=True)
        for pack in _packs(folder, store):
            if pack.kind == "train":
                do(pack, store, PackOptions("cpu"))
        peer = "PyHessian 0.1, eigenvalues, trace and density of each seed"
        ways = {"ours": (_ours, (name,)), peer: (_theirs, (name,))}
        scores = compete(ways, rounds=1, warm_up=0)
    what = (
        f"Hessians of a cell of {SEEDS} seeds, ResNet18 w8, {EXAMPLES} images,"
        f" {scores['ours'].answer}"
    )
    return [line(what, scores, "ours", 4.0)]


def _ours(name: str) -> Callable[[], str]:
    torch.set_num_threads(1)
    keep_freed_memory()
    store = Store.open(str(Path(name) / "store"))
    (pack,) = _packs(Path(name), store)
    dataset_of(pack.trials[0].dataset, CPU)

    def turn() -> str:
        outcomes = do(pack, store, PackOptions("cpu"))
        assert [outcome.status for outcome in outcomes] == ["done"] * SEEDS, outcomes
        rows = store.read_table("metrics/hessian", ["trace_method", "num_hvps"]).to_pylist()
        (method,) = {row["trace_method"] for row in rows}
        return f"{method} trace, {sum(row['num_hvps'] for row in rows)} products"

    return turn


def _theirs(name: str) -> Callable[[], None]:
    import pyhessian

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    torch.default_generator.manual_seed(0)
    store = Store.open(str(Path(name) / "store"))
    (pack,) = _packs(Path(name), store)
    data = dataset_of(pack.trials[0].dataset, CPU)
    inputs, labels = draw_examples(data, EXAMPLES, 0)

    def turn() -> None:
        for trial in pack.trials:
            module = load_module(trial, store.read_checkpoint(trial.key), data, CPU)
            found = pyhessian.hessian(
                copy.deepcopy(module), nn.CrossEntropyLoss(), data=(inputs, labels), cuda=False
            )
            found.eigenvalues()
            found.trace()
            with _removed_function():
                found.density()

    return turn


def _packs(folder: Path, store: Store) -> list[Pack]:
    """Return what is missing: the training pack first, then one pack of all the Hessians."""
    plan = make_plan(load_sweep(folder / "cell.yaml", [f"dataset.path={folder / 'patterns.npz'}"]))
    stored = stored_keys(store, metric_names(plan))
    return make_packs(plan, stored, lambda _cell, _job: 1.0, measure_s=60.0)


def _write_patterns(path: Path) -> None:
    """Write faint patterns, one a class, in noise: 200 to train on, 50 to test."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, EXAMPLES + 50)
    labels[:10] = labels[-10:] = np.arange(10)
    patterns = rng.standard_normal((10, 3, 32, 32))
    inputs = (0.3 * patterns[labels] + rng.standard_normal((len(labels), 3, 32, 32))).astype("f4")
    np.savez(
        path,
        train_inputs=inputs[:EXAMPLES],
        train_labels=labels[:EXAMPLES],
        test_inputs=inputs[EXAMPLES:],
        test_labels=labels[EXAMPLES:],
    )


if __name__ == "__main__":
    print("\n".join(main()))
