"""phasegrid: load-by-temperature phase diagrams of neural-network training.

In a notebook or a script, where a sweep may be a file or a mapping like one::

    import phasegrid

    sweep = phasegrid.load_sweep("sweeps/quickstart.yaml", ["seeds=1"])
    phasegrid.plan(sweep)                    # what is stored, what is missing, how long it takes
    result = phasegrid.run(sweep)            # do what is missing
    phasegrid.plot(result, output="figures") # figures to look at, and files of them
    result.results.trials()                  # tables of what is stored, as phasegrid.open gives

`plan` and `run` are rooms too (``phasegrid.run.loop``): a room that is called does what its name
says.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal, TypeAlias

from phasegrid.version import __version__

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from phasegrid.analysis.report.report import Drawn
    from phasegrid.config.contracts import Trials
    from phasegrid.config.types import Sweep
    from phasegrid.declare import Shown
    from phasegrid.run.planned import Planned
    from phasegrid.run.result import RunResult
    from phasegrid.store.alone import Alone
    from phasegrid.store.results import Results
    from phasegrid.store.store import Store

__all__ = ["__version__", "load_sweep", "open", "plan", "plot", "run"]

SweepSource: TypeAlias = "Sweep | Path | str | Mapping[str, object]"


def load_sweep(source: Path | str | Mapping[str, object], overrides: Sequence[str] = ()) -> "Sweep":
    """Read a sweep file, or a mapping as such a file would give it, with overrides ``path=value``
    (value as YAML); its plug-ins are tried once, on two examples.

    Files are named relative to the sweep file, and in a mapping relative to the current folder.

    Raises:
        SweepError: if there is any mistake; its message lists every one with its line and column,
            or its path in the mapping.
    """
    from phasegrid.config.load import load_sweep as load

    return load(source, overrides, _trials)


def open(path: str) -> "Results":  # noqa: A001 - phasegrid.open reads well in a notebook
    """Open a store (a folder, ``s3://...`` or any fsspec URL) for reading; needs neither torch nor
    ray.

    Raises:
        StoreError: if there is no store at `path`.
    """
    from phasegrid.store.results import open_results

    return open_results(path, _network, _variants, _measure)


def plot(
    storage: "str | Path | Results | RunResult",
    sweep: str | None = None,
    *,
    output: Path | str | None = None,
    formats: Sequence[str] = ("png", "pdf"),
    thresholds: Mapping[str, float | None] | None = None,
) -> "Drawn":
    """Draw a sweep of a store (None: its only one, or the one that was run): figures for a
    notebook, and if `output` is given files of them and of their tables.

    `thresholds` are those of the phase rules by name; None finds one from the data.

    Raises:
        SweepError: for a sweep that is not in the store or has nothing stored, an unknown threshold
            or format.
        StoreError: if the store cannot be read.
    """
    from phasegrid.analysis.report.report import draw_sweep
    from phasegrid.run.result import RunResult
    from phasegrid.store.results import Results

    if isinstance(storage, RunResult):
        sweep, storage = sweep or storage.sweep, storage.results
    results = storage if isinstance(storage, Results) else open(str(storage))
    return draw_sweep(results, sweep, thresholds, output, formats)


class _PlanRoom(ModuleType):
    """From a sweep to jobs, packs and predicted costs; called, it plans a sweep."""

    def __call__(
        self,
        sweep: SweepSource,
        storage: str | Path | None = None,
        slots: int = 2,
        device: str | None = None,
    ) -> "Planned":
        """Plan a sweep and compare it with a store (None: the one that it names), for a run on
        `slots` cores or GPUs: of the kind `device` (``h200``, ``cpu``, ... or a data sheet, as for
        the command), or of the kind that did most of what is stored.

        Raises:
            SweepError: if there is any mistake in it, or if there is no such device.
            StoreError: if the store cannot be read.
        """
        from phasegrid.plan.devices import find_device
        from phasegrid.run.planned import look_at
        from phasegrid.store.store import Store

        kind = None if device is None else find_device(device)
        loaded = _loaded(sweep)
        return look_at(loaded, Store.find(_storage(loaded, storage)), slots, kind)


class _RunRoom(ModuleType):
    """From a plan to stored results; called, it runs a sweep."""

    def __call__(
        self,
        sweep: SweepSource,
        storage: str | Path | None = None,
        *,
        serial: bool = False,
        address: str | None = None,
        num_cpus: int | None = None,
        max_in_flight: int | None = None,
        device: str | None = None,
        strategy: Literal["auto", "loop", "vmap", "fused", "merged"] = "auto",
        limit: int | None = None,
        quiet: bool = False,
        accept_changed_code: bool = False,
    ) -> "RunResult":
        """Do what a store (None: the one that the sweep names) does not hold of a sweep yet.

        `serial` does it in this process; else a Ray is started on `num_cpus` cores and ended
        afterwards, or the one at `address` is joined. `limit` does only so many
        unfinished cells, small and large. `quiet` shows no progress. The others are those of the
        command.

        Raises:
            SweepError, DataError, StoreError, ClusterError: if it cannot be started or must end.
            KeyboardInterrupt: after Ctrl-C, once what was underway is ended and what is finished is
            stored: the same call goes on from there. SystemExit: likewise, after SIGTERM.
        """
        from phasegrid.cli.output import talking_console
        from phasegrid.run.places import RunTarget
        from phasegrid.run.run import run_sweep
        from phasegrid.store.store import Store

        loaded = _loaded(sweep)
        store = Store.open(_storage(loaded, storage), create=True)
        where = RunTarget(serial, address, max_in_flight, num_cpus, device, strategy, "address")
        result = run_sweep(
            loaded,
            store,
            where,
            talking_console(),
            quiet,
            limit,
            accept_changed_code=accept_changed_code,
        )
        if result.exit_code == 130:
            raise KeyboardInterrupt(str(result))
        if result.exit_code > 128:
            raise SystemExit(result.exit_code)
        return result


plan: _PlanRoom
run: _RunRoom
import_module("phasegrid.plan").__class__ = _PlanRoom
import_module("phasegrid.run").__class__ = _RunRoom


def _loaded(sweep: SweepSource) -> "Sweep":
    from phasegrid.config.types import Sweep

    return sweep if isinstance(sweep, Sweep) else load_sweep(sweep)


def _storage(sweep: "Sweep", storage: str | Path | None) -> str:
    return str(storage or sweep.storage or "results")


def _network(store: "Store", key: str, name: str) -> "nn.Module":
    from phasegrid.run.networks import stored_network

    return stored_network(store, key, name)


def _measure(
    store: "Store",
    metric: str,
    networks: Sequence[str],
    settings: Sequence[str],
    args: Mapping[str, object],
) -> "Alone":
    from phasegrid.run.measure import measure_networks

    return measure_networks(store, metric, networks, settings, args)


def _variants(
    metric: str, rows: "pd.DataFrame", plan: "pd.DataFrame", declared: "Mapping[str, Shown]"
) -> "pd.Series[str]":
    from phasegrid.analysis.tables.measured_from import variants

    return variants(metric, rows, plan, declared)


def _trials() -> "Trials":
    from phasegrid.run.worker import contract_trials

    return contract_trials
