"""Turn a sweep into its plan: every cell with its trials and metric jobs and their keys.

Pure: no torch, no disk, no clock. `phasegrid.plan.packing` groups what is not stored yet into
packs.
"""

from collections.abc import Sequence

from phasegrid.config.load import Sweep
from phasegrid.declare import DatasetFacts
from phasegrid.jobs import MetricJob
from phasegrid.plan.contents import Cell, Plan
from phasegrid.plan.keys import Texts
from phasegrid.plan.measurements import Measurements
from phasegrid.plan.stages import seeds_by_stage, trials_by_stage
from phasegrid.plan.wanted import leaving_alike
from phasegrid.plan.workloads import Workloads


def make_plan(sweep: Sweep) -> Plan:
    """Lay out all cells, trials and metric jobs of a sweep, by facets, load, temperature."""
    texts, works = Texts(), Workloads()
    asked = [Measurements(some, texts.args) for some in sweep.varied or (sweep.metrics,)]
    cells, seeds = [], seeds_by_stage(sweep)
    for index, point in enumerate(sweep.points):
        of_stage = trials_by_stage(point, sweep, seeds, texts)
        cell = Cell(
            index=index,
            facet=point.facet,
            load=point.load,
            temperature=point.temperature,
            trials=tuple(trial for trials in of_stage.values() for trial in trials),
            metric_jobs=tuple(asked[point.asks].of_cell(of_stage, sweep.seeds, point.facts)),
            work=works.of(point),
            stages={name: len(t) for name, t in of_stage.items()} if sweep.stages else {},
        )
        cells.append(cell)
    if sweep.varied:
        cells = leaving_alike(cells)
    axes = [axis for axis in (sweep.load, sweep.temperature, *sweep.facets) if axis is not None]
    return Plan(
        sweep=sweep.name,
        load_path=sweep.load.path if sweep.load else None,
        temperature_path=sweep.temperature.path if sweep.temperature else None,
        cells=tuple(cells),
        axis_names=tuple((axis.path, axis.label) for axis in axes if axis.label),
        across=_across(cells, asked[0], [point.facts for point in sweep.points]),
    )


def _across(
    cells: Sequence[Cell], measurements: Measurements, facts: Sequence[DatasetFacts | None]
) -> tuple[tuple[int, MetricJob], ...]:
    """Return the measurements across cells, each with the first cell that has its first trial."""
    jobs = measurements.across(cells, facts)
    firsts = {job.trials[0] for job in jobs}
    homes: dict[str, int] = {}
    for cell in cells if firsts else ():
        for trial in cell.trials:
            if trial.key in firsts:
                homes.setdefault(trial.key, cell.index)
    return tuple((homes[job.trials[0]], job) for job in jobs)
