"""Define the commands for runs on a cluster: submit, status, logs, stop, list.

The store is read first, without a cluster. A cluster is asked only if the user gives its address: a
store must not decide where a token is sent.
"""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phasegrid.cli.options import (
    AcceptChangedCode,
    AsJson,
    Home,
    Settings,
    Storage,
    SweepFile,
    load,
    open_store,
    say,
)
from phasegrid.cli.output import echo
from phasegrid.errors import ClusterError, StoreError, SweepError
from phasegrid.redaction import clean

if TYPE_CHECKING:
    from phasegrid.config.load import Sweep
    from phasegrid.store.submissions import Job, State, Submission
    from phasegrid.submit.bundle import Bundle
    from phasegrid.submit.ray_jobs import Cluster

_VARIABLE = "RAY_API_SERVER_ADDRESS"
Address = Annotated[
    str, typer.Option(envvar=_VARIABLE, help="The head's dashboard: http://head:8265.")
]
AddressIfAny = Annotated[
    str | None,
    typer.Option("--address", envvar=_VARIABLE, help="Also ask the cluster: http://head:8265."),
]
Id = Annotated[str, typer.Argument(metavar="ID", help="What submit printed.")]
Wait = Annotated[bool, typer.Option("--wait", help="Follow the log; return the run's exit code.")]
Name = Annotated[str | None, typer.Option(help="Begins the id (default: the sweep's name).")]
WithCode = Annotated[
    bool, typer.Option("--with-code", help="Bundle the tracked files of phasegrid's checkout.")
]
SharedStorage = Annotated[
    bool,
    typer.Option("--shared-storage", help="A relative storage is the same folder on every node."),
]
Python = Annotated[str, typer.Option(help="The cluster's Python that has phasegrid.")]
MaxInFlight = Annotated[
    int | None, typer.Option("-j", "--max-in-flight", min=1, help="Packs in flight at most.")
]
Device = Annotated[str | None, typer.Option(help="cpu or cuda (default: cuda where there is one).")]
Limit = Annotated[
    int | None, typer.Option(min=1, help="Only N unfinished cells, small and large: a pilot.")
]


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to a command line."""
    for command in (submit, status, logs, stop):
        app.command()(command)
    app.command("list")(list_submissions)


def submit(
    sweep: SweepFile,
    address: Address,
    settings: Settings = None,
    storage: Storage = None,
    wait: Wait = False,
    name: Name = None,
    with_code: WithCode = False,
    shared_storage: SharedStorage = False,
    python: Python = "python",
    max_in_flight: MaxInFlight = None,
    device: Device = None,
    limit: Limit = None,
    accept_changed_code: AcceptChangedCode = False,
) -> None:
    """Run a sweep on a Ray cluster from elsewhere: check it here, send a small bundle, print an id,
    return.

    Where the cluster wants a token (a head does whose user has ~/.ray/auth_token): set
    RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH if it is not the one in your own
    ~/.ray/auth_token.
    """
    from phasegrid.store.submissions import draw_id
    from phasegrid.submit import ray_jobs, targets

    targets.check_address(address)
    loaded = load(sweep, settings)
    for note in loaded.tried.notes:
        say(f"note: {note}")
    url = targets.checked_storage(storage or loaded.storage or "results", shared_storage)
    options = _given({"--max-in-flight": max_in_flight, "--device": device, "--limit": limit})
    if accept_changed_code:
        options.append("--accept-changed-code")
    else:
        _refuse_changed_code(loaded, url)
    bundle = _bundle(sweep, loaded, settings or [], with_code)
    submission_id = draw_id(name or loaded.name, datetime.now(UTC))
    command = ray_jobs.run_command(python, bundle.sweep, url, settings or [], options)
    labels = (("phasegrid_sweep", loaded.name), ("phasegrid_storage", url))
    request = ray_jobs.Request(submission_id, command, bundle, labels)
    cluster = ray_jobs.when_ready(lambda: ray_jobs.connect(address), say)
    ray_jobs.when_ready(lambda: cluster.submit(request), say)
    echo(submission_id)
    _record(submission_id, loaded.name, url, address, settings or [])
    say(
        f"submitted; phasegrid status {submission_id} --storage {url} shows its progress;"
        f" phasegrid plot {loaded.name} --storage {url} draws the results"
    )
    if wait:
        raise typer.Exit(_wait(cluster, submission_id, url))


def status(
    sweep: Annotated[
        str | None,
        typer.Argument(metavar="[SWEEP|ID]", help="A sweep or a submission; all if omitted."),
    ] = None,
    storage: Home = "results",
    address: AddressIfAny = None,
    as_json: AsJson = False,
) -> None:
    """Show how much is stored, what failed, and how submissions go; the store tells, and the
    cluster if it is asked.
    """
    from phasegrid.cli import render
    from phasegrid.store import submissions
    from phasegrid.store.store import Store

    jobs = _ask(address)
    if sweep is not None and jobs is not None and sweep in jobs and Store.find(storage) is None:
        say(f"no phasegrid store at {storage} yet")
        _, says = submissions.on_cluster(jobs[sweep])
        echo(f"{sweep}: {says}")
        return
    store = open_store(storage)
    one = submissions.read(store, sweep) if sweep and sweep not in store.sweeps() else None
    if one is None and jobs and sweep in jobs:
        one = submissions.Submission(str(sweep), jobs[sweep].sweep or "", submissions.now_text())
    name = one.sweep if one else sweep
    shown = [one] if one else submissions.read_all(store, sweep)
    known = _states(shown, jobs)
    text, names = "[]" if as_json else "", store.sweeps()
    if (
        name in names or not known or (name is None and names)
    ):  # otherwise no driver has recorded it yet
        text = render.status_text(store, name, as_json)
    if as_json:
        echo(json.dumps(_with_submissions(json.loads(text), known), indent=2))
        return
    echo("\n".join([*([text] if text else []), *submissions.lines(submissions.current(known))]))


def logs(
    submission_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="What submit printed.")
    ] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Until the run ends.")] = False,
    cell: Annotated[
        int | None, typer.Option(help="The tracebacks of what failed in this cell instead.")
    ] = None,
    sweep: Annotated[str | None, typer.Option(help="The sweep of the cell.")] = None,
    storage: Home = "results",
    address: AddressIfAny = None,
) -> None:
    """Show what a submitted run says: from the cluster if an address is given and it answers, else
    from the store.
    """
    from phasegrid.submit import logs as reading_logs

    if (submission_id is None) == (cell is None):
        raise SweepError(
            "logs: give either the ID of a submission, or --cell NUMBER and --sweep NAME"
        )
    if cell is not None:
        echo(reading_logs.failures_text(open_store(storage), sweep, cell))
        return
    assert submission_id is not None
    if address:
        try:
            _cluster_log(address, submission_id, follow)
        except ClusterError as error:
            say(f"{error}\nwhat the store holds:")
        else:
            return
    store = open_store(storage)
    for text in reading_logs.from_store(store, submission_id, follow):
        echo(text, end="")


def stop(
    submission_id: Id,
    address: Address,
    now: Annotated[
        bool, typer.Option("--now", help="Do not wait for packs that are running.")
    ] = False,
    storage: Home = "results",
) -> None:
    """End a submitted run: running packs may finish for half a minute, the rest goes on from
    snapshots next time.
    """
    from phasegrid.store import submissions
    from phasegrid.submit import ray_jobs

    grace = (
        "running packs are not waited for" if now else "running packs may finish for half a minute"
    )
    say(f"asking {address} to stop {submission_id}: nothing new is started, {grace} ...")
    cluster = ray_jobs.connect(address)
    if now:
        submissions.ask_to_hurry(open_store(storage), submission_id)
    if cluster.stop(submission_id):
        say(
            f"{submission_id} is being stopped; what is finished is stored, submit the sweep again"
            f" to go on (phasegrid status {submission_id} --storage {storage} tells when it has"
            " ended)"
        )
    else:
        say(f"{submission_id} was not running any more")


def list_submissions(
    storage: Home = "results", address: AddressIfAny = None, as_json: AsJson = False
) -> None:
    """List every submission that the store records, and with an address those that only the cluster
    knows.
    """
    from phasegrid.store import submissions
    from phasegrid.store.store import Store

    jobs = _ask(address)
    recorded = []
    if jobs is not None and Store.find(storage) is None:
        say(f"no phasegrid store at {storage} yet")
    else:
        recorded = submissions.read_all(open_store(storage))
    known = _states(recorded, jobs)
    ids = {submission.id for submission in recorded}
    others = [job for job in (jobs or {}).values() if job.id not in ids and job.sweep is not None]
    if as_json:
        records = [submissions.as_record(s, state) for s, state in known]
        records += [
            {"id": j.id, "sweep": j.sweep, "state": submissions.on_cluster(j)[0]} for j in others
        ]
        echo(json.dumps(records, indent=2))
        return
    lines = submissions.lines(known)
    lines += [f"{j.id}: {submissions.on_cluster(j)[1]} (not in this store)" for j in others]
    echo("\n".join(lines) if lines else "no submissions")


def _given(options: dict[str, int | str | None]) -> list[str]:
    """Return the given options in the form of a command line."""
    pairs = [(name, str(value)) for name, value in options.items() if value is not None]
    return [text for pair in pairs for text in pair]


def _refuse_changed_code(loaded: "Sweep", url: str) -> None:
    """Refuse what the run would refuse, if this machine can reach the store."""
    from phasegrid.run.code_changes import find_changes, refuse_changes

    if not loaded.code:
        return
    try:
        store = open_store(url)
    except StoreError:
        return
    refuse_changes(find_changes(store, loaded.code), store)


def _bundle(path: Path, loaded: "Sweep", settings: list[str], with_code: bool) -> "Bundle":
    import phasegrid
    from phasegrid.submit.bundle import make_bundle

    code = Path(phasegrid.__file__).resolve().parent.parent if with_code else None
    bundle = make_bundle(path, loaded, settings, code)
    say(bundle.summary())
    for note in bundle.notes:
        say(f"note: {note}")
    return bundle


def _record(submission_id: str, sweep: str, url: str, address: str, settings: list[str]) -> None:
    """Record a submission in its store, which is made if it does not exist. If this machine cannot
    reach the store, the driver will record it.
    """
    from phasegrid.store import submissions

    record = submissions.new(submission_id, sweep, address, settings)
    try:
        # A path counts as the cluster's only if its parent folder exists: then it is a mount, and
        # not a new folder of this machine.
        store = open_store(url, create="://" in url or Path(url).parent.is_dir())
        submissions.create(store, record)
    except StoreError as error:
        say(f"could not be recorded from here; the run will record itself when it starts ({error})")


def _wait(cluster: "Cluster", submission_id: str, storage: str) -> int:
    from phasegrid.store import submissions
    from phasegrid.submit import endings

    def show(text: str) -> None:
        sys.stderr.write(clean(text))
        sys.stderr.flush()

    try:
        try:
            cluster.follow(submission_id, show)
        except ClusterError:
            say(f"its log was interrupted; asking {cluster.address} for its state ...")
        job = cluster.wait(submission_id)
    except ClusterError as error:
        raise ClusterError(
            f"{error}. What is finished is stored: `phasegrid status {submission_id} --storage"
            f" {storage}` tells whether it is still running; if not, submit the sweep again:"
            f" only what is missing is done"
        ) from error
    except KeyboardInterrupt:
        say(f"not waiting any more; the run goes on (phasegrid stop {submission_id} ends it)")
        raise
    try:
        record = submissions.read(open_store(storage), submission_id)
    except StoreError as error:  # the cluster's folder may not exist here
        say(f"cannot read how it ended ({error})")
        record = None
    advice = endings.hint(job)
    if advice:
        say(advice)
    code = endings.exit_code_of(job, record.exit_code if record else None)
    if record is not None and record.ended_at is None:
        say("its driver did not record in the store how it ended: see its log")
    say(f"{submission_id}: {submissions.exit_text(code)}")
    return code


def _cluster_log(address: str, submission_id: str, follow: bool) -> None:
    from phasegrid.submit import ray_jobs

    cluster = ray_jobs.connect(address)
    if follow:
        cluster.follow(submission_id, lambda text: echo(text, end=""))
    else:
        echo(cluster.log(submission_id), end="")


def _ask(address: str | None) -> "dict[str, Job] | None":
    """Ask a cluster for its jobs; None if there is no address, or no answer, which is reported."""
    if address is None:
        return None
    from phasegrid.submit import ray_jobs

    try:
        return {job.id: job for job in ray_jobs.connect(address).jobs()}
    except ClusterError as error:
        say(f"{error}\nwhat the store holds:")
        return None


def _with_submissions(
    sweeps: list[dict[str, object]], known: "list[tuple[Submission, tuple[State, str]]]"
) -> list[dict[str, object]]:
    """Add submissions to the states of sweeps; a sweep that is only submitted so far gets a new
    state.
    """
    from phasegrid.store.submissions import as_record

    records = [as_record(*pair) for pair in known]
    names = [state["sweep"] for state in sweeps]
    new = dict.fromkeys(str(r["sweep"]) for r in records if r["sweep"] not in names)
    later: list[dict[str, object]] = [{"sweep": name} for name in new]
    return [
        {**state, "submissions": [r for r in records if r["sweep"] == state["sweep"]]}
        for state in [*sweeps, *later]
    ]


def _states(
    shown: "list[Submission]", jobs: "dict[str, Job] | None"
) -> "list[tuple[Submission, tuple[State, str]]]":
    from phasegrid.store.submissions import Job, state_of

    now = datetime.now(UTC)
    if jobs is None:
        return [(s, state_of(s, now, None)) for s in shown]
    return [(s, state_of(s, now, jobs.get(s.id, Job(s.id, None)))) for s in shown]
