"""Define the command line. Data goes to stdout, messages go to stderr; heavy imports wait until a
command needs them.

Exit codes: 0 all planned work is stored; 1 some jobs failed; 2 a usage or sweep error; 3 stopped
before the end; 4 storage or cluster; 130 Ctrl-C; 143 SIGTERM.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from phasegrid.cli import remote
from phasegrid.cli import store as cli_store
from phasegrid.cli.fetch import fetch
from phasegrid.cli.measure import measure
from phasegrid.cli.options import (
    AcceptChangedCode,
    AsJson,
    DeviceKind,
    Home,
    Settings,
    Storage,
    SweepFile,
    load,
    open_store,
    say,
    talk,
)
from phasegrid.cli.output import clean_logs, echo
from phasegrid.errors import PhasegridError, exit_code
from phasegrid.texts import counted

if TYPE_CHECKING:
    from phasegrid.run.result import RunResult
    from phasegrid.store.store import Store

app = typer.Typer(
    name="phasegrid",
    help=(
        "Load-by-temperature phase diagrams: plan a sweep, run it on Ray, draw what the store"
        " holds."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
FIGURES = (".png", ".pdf", ".svg")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. A user's mistake ends with one message and an exit code, not with a
    traceback.
    """
    clean_logs()
    try:
        app(arguments)
    except PhasegridError as error:
        say(str(error))
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        talk.print("interrupted")
        sys.exit(130)


@app.command()
def validate(sweep: SweepFile, settings: Settings = None) -> None:
    """Check a sweep file and list every mistake with its place; touches nothing else."""
    from phasegrid.config.unmeasured import left_out

    loaded = load(sweep, settings)
    cells, seeds = len(loaded.points), len(loaded.seeds)
    names = ", ".join(request.name for request in loaded.metrics) or "none"
    own = ", ".join(request.name for request in loaded.figures)
    echo(
        f"{sweep}: valid; {counted(cells, 'cell')} x {counted(seeds, 'seed')}"
        f" = {counted(cells * seeds, 'trial')}; metrics: {names}"
        + (f"; figures: {own}" if own else "")
    )
    for line in loaded.tried.lines:
        echo(f"tried {line}")
    for note in (*loaded.tried.notes, *left_out(loaded)):
        echo(f"note: {note}")


@app.command()
def schema(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write here, not to stdout.")
    ] = None,
) -> None:
    """Print the JSON Schema of sweep files, for editors."""
    from phasegrid.config.json_schema import json_schema

    text = json.dumps(json_schema(), indent=2)
    if output:
        output.write_text(text + "\n", encoding="utf-8")
    else:
        echo(text)


@app.command()
def plan(
    sweep: SweepFile,
    settings: Settings = None,
    storage: Storage = None,
    why: Annotated[bool, typer.Option("--why", help="Name what made stored trials stale.")] = False,
    slots: Annotated[int, typer.Option(help="Cores or GPUs to predict the time for.")] = 2,
    device: DeviceKind = None,
    as_json: AsJson = False,
) -> None:
    """Show the cells of a sweep, which jobs are done, missing or stale, and the predicted cost."""
    from phasegrid.cli import render
    from phasegrid.plan.devices import find_device
    from phasegrid.store.store import Store

    kind = None if device is None else find_device(device)
    loaded = load(sweep, settings)
    store = Store.find(storage or loaded.storage or "results")
    echo(render.plan_text(loaded, store, why, slots, as_json, kind))


@app.command()
def run(
    context: typer.Context,
    sweep: SweepFile,
    settings: Settings = None,
    storage: Storage = None,
    address: Annotated[
        str | None,
        typer.Option(
            envvar="RAY_ADDRESS", help="Ray to join (host:6379, auto); else one is started."
        ),
    ] = None,
    serial: Annotated[
        bool, typer.Option("--serial", help="No Ray: do everything in this process.")
    ] = False,
    max_in_flight: Annotated[
        int | None, typer.Option("-j", "--max-in-flight", min=1, help="Packs in flight at most.")
    ] = None,
    num_cpus: Annotated[
        int | None,
        typer.Option(min=1, help="Cores for the Ray that is started; threads if --serial."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda (default: cuda where there is one).")
    ] = None,
    strategy: Annotated[
        Literal["auto", "loop", "vmap", "fused", "merged"], typer.Option(help="How packs train.")
    ] = "auto",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only N unfinished cells, small and large: a pilot.")
    ] = None,
    plot: Annotated[bool, typer.Option(help="Draw the figures at the end.")] = True,
    figures: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of the figures.")
    ] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress.")] = False,
    accept_changed_code: AcceptChangedCode = False,
) -> None:
    """Do what the store does not hold yet, then draw the figures. Running again does only what is
    missing.
    """
    from phasegrid.run.places import RunTarget
    from phasegrid.run.run import figures_folder, run_sweep
    from phasegrid.submit.driver import driver_of, submission_id

    with driver_of(sweep, storage or "results", submission_id()) as driver:
        loaded = load(sweep, settings)
        driver.sweep = loaded.name
        store = open_store(storage or loaded.storage or "results", create=True)
        where = RunTarget(
            serial, address, max_in_flight, num_cpus, device, strategy, _origin(context, "address")
        )
        result = run_sweep(
            loaded, store, where, talk, quiet, limit, driver.stop, accept_changed_code
        )
        driver.code = result.exit_code
        if plot and driver.code in (0, 1):
            code = _draw_news(result, figures_folder(loaded.name, figures))
            driver.code = max(driver.code, code)
    raise typer.Exit(driver.code)


def _draw_news(result: "RunResult", folder: Path) -> int:
    """Draw the sweep of a run, unless nothing is new or nothing is stored; return an exit code."""
    drawn = [] if result.is_news else sorted(folder.glob("*.png"))
    if drawn:
        talk.print("nothing new: the figures are up to date", highlight=False)
    if not _any_training(result.storage, result.sweep):
        talk.print("no training is stored: nothing to draw", highlight=False)
        return 0
    if drawn:
        _name(drawn)
        return 0
    return _draw(result.storage, result.sweep, folder, ("png", "pdf"), None)


@app.command()
def verify(
    sweep: Annotated[str | None, typer.Argument(metavar="[SWEEP]")] = None,
    storage: Home = "results",
    deep: Annotated[bool, typer.Option(help="Also read every checkpoint's numbers.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check the store: files readable, schemas right, planned = stored, checkpoints present. Exit 1
    on problems.
    """
    from phasegrid.cli import render
    from phasegrid.run.verify import verify as check

    problems = check(open_store(storage), sweep, deep=deep)
    echo(render.problems_text(problems, as_json))
    raise typer.Exit(1 if problems else 0)


@app.command()
def query(
    sql: Annotated[
        str, typer.Argument(help="SQL over trials, histories, plans, failures, <metric>.")
    ],
    storage: Home = "results",
    as_json: AsJson = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write .csv or .parquet.")
    ] = None,
) -> None:
    """Ask the store in SQL (DuckDB): ``select model_args, avg(test_accuracy_percent) from trials
    group by 1``.
    """
    from phasegrid.cli import render
    from phasegrid.store.sql import query as ask

    table = ask(open_store(storage), sql)
    if output:
        render.write_table(table, output)
    else:
        echo(render.table_text(table, as_json))


@app.command()
def plot(
    sweep: Annotated[
        str | None,
        typer.Argument(metavar="[SWEEP]", help="Name of a sweep (if the store has several)."),
    ] = None,
    storage: Home = "results",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of the figures.")
    ] = None,
    formats: Annotated[
        str, typer.Option("--format", help="Comma-separated: png, pdf, svg.")
    ] = "png,pdf",
    threshold: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A threshold of the phase rules; repeatable."),
    ] = None,
) -> None:
    """Draw the phase diagram, the grid of curves and the tables of a sweep from the store alone."""
    from phasegrid.run.run import figures_folder

    store = open_store(storage)
    name = _only_sweep(store, sweep)
    folder = figures_folder(name, output)
    raise typer.Exit(_draw(store.url, name, folder, tuple(formats.split(",")), threshold))


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="Name of a sweep.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The sweep compared with it: B - A.")],
    storage: Home = "results",
    storage_b: Annotated[
        str | None, typer.Option("--storage-b", help="Store of B (default: that of A).")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of the figures.")
    ] = None,
    formats: Annotated[
        str, typer.Option("--format", help="Comma-separated: png, pdf, svg.")
    ] = "png,pdf",
) -> None:
    """Join two sweeps cell by cell: differences with intervals, as tables and diagrams, and the
    gain of B over A.
    """
    from phasegrid.analysis.report.comparison import compare as compare_sweeps
    from phasegrid.run.run import figures_folder

    a, b = open_store(storage), open_store(storage_b or storage)
    one, other = _only_sweep(a, first), _only_sweep(b, second)
    folder = figures_folder(f"{one}-vs-{other}", output)
    found = compare_sweeps(a.url, one, b.url, other, folder, tuple(formats.split(",")))
    for line in found.summary:
        echo(line)
    _name(list(found.paths))


@app.command("import")
def import_published(
    kind: Annotated[str, typer.Argument(help="What is imported: taxonomy.")],
    csv: Annotated[Path, typer.Argument(help="The published results as CSV.")],
    storage: Home = "results",
    name: Annotated[str, typer.Option(help="Name of the sweep they become.")] = "taxonomy-fig3",
) -> None:
    """Put published results into a store, to be analysed and drawn like our own."""
    if kind != "taxonomy":
        raise typer.BadParameter(f"{kind!r} is not known; allowed: taxonomy", param_hint="KIND")
    from phasegrid.run.published.taxonomy import import_taxonomy

    report = import_taxonomy(csv, open_store(storage, create=True), name)
    echo(str(report))


app.command()(fetch)
app.command()(measure)
app.command()(cli_store.compact)
app.command()(cli_store.gc)
app.command()(cli_store.delete)
app.command()(cli_store.rename)
app.command()(cli_store.doctor)
remote.add_commands(app)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from phasegrid.version import __version__

        echo(f"phasegrid {__version__}")
        raise typer.Exit


def _origin(context: typer.Context, name: str) -> str:
    """Return the source of an option's value, in the words of a user."""
    source = context.get_parameter_source(name)
    by_variable = source is not None and source.name == "ENVIRONMENT"
    return "RAY_ADDRESS" if by_variable else f"--{name}"


def _only_sweep(store: "Store", sweep: str | None) -> str:
    from phasegrid.errors import SweepError

    names = store.sweeps()
    if sweep is None and len(names) == 1:
        return names[0]
    if sweep in names:
        return str(sweep)
    found = ", ".join(names) or "none"
    what = f"there is no sweep {sweep!r}" if sweep else "name one sweep"
    raise SweepError(f"drawing from {store.url}: {what}; sweeps: {found}")


def _draw(
    url: str, sweep: str, folder: Path, formats: tuple[str, ...], threshold: list[str] | None
) -> int:
    """Draw a sweep, name its files and what is in no figure, and return the exit code: 1 if a
    figure failed.
    """
    from phasegrid.analysis.report.report import draw_sweep, parse_thresholds
    from phasegrid.analysis.tables.load import open_store as open_results

    thresholds = parse_thresholds(threshold or [])
    drawn = draw_sweep(open_results(url), sweep, thresholds, folder, formats)
    _name(list(drawn.files))
    for figure, reason in drawn.notes:
        talk.print(f"not drawn: {figure}: {reason}", highlight=False, markup=False)
    return 1 if drawn.failed else 0


def _any_training(url: str, sweep: str) -> bool:
    """Say whether a store holds a training of a sweep; a diverged one counts."""
    from phasegrid.store.results import open_results

    return bool(open_results(url).cells(sweep)["outcome"].notna().any())


def _name(paths: list[Path]) -> None:
    """Print the names of the figures on stdout, and only the number of the other files."""
    figures = [path for path in paths if path.suffix in FIGURES]
    others = sorted({str(path.parent) for path in paths if path.suffix not in FIGURES})
    if others:
        talk.print(
            f"tables: {counted(len(paths) - len(figures), 'file')} in {', '.join(others)}",
            highlight=False,
        )
    talk.print("figures:", highlight=False)
    for path in figures:
        echo(str(path))
