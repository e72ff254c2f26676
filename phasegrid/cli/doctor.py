"""Check that this machine, a store and a cluster can run a sweep, and say how to repair faults.

Nothing is changed: test files in a store are deleted again, and no store is made.
"""

import json
import os
import platform
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from phasegrid.cli.data_checks import check_data
from phasegrid.cli.machine_checks import Check, card_checks, check_disk, check_machine
from phasegrid.errors import ClusterError, PhasegridError, StoreError, SweepError
from phasegrid.redaction import cluster_token
from phasegrid.store.files.base import TEMPORARY, Files
from phasegrid.store.files.errors import reported
from phasegrid.store.files.local import LocalFiles
from phasegrid.store.files.opening import open_files
from phasegrid.store.store import Store
from phasegrid.submit.targets import check_address
from phasegrid.texts import counted

MAX_SKEW_S = 5.0
_RACERS = 4
_TIMEOUT_S = 5.0
_NODES_ANSWER_S = 30.0  # a node may have to start a process first


def examine(
    storage: str | None = None, address: str | None = None, data: Path | None = None
) -> list[Check]:
    """Check this machine, and, if given, the store at `storage`, the cluster at `address` and what
    is prepared in the folder `data`.
    """
    found = list(check_machine())
    if data is not None:
        found += check_data(data)
    if storage is not None:
        found += check_storage(storage)
    if address is not None:
        found += check_cluster(address, storage)
    return found


def exit_code(checks: list[Check]) -> int:
    """Return 4 if the storage or the cluster failed, else 0."""
    return 4 if any(c.state == "bad" and c.place != "machine" for c in checks) else 0


def check_storage(url: str) -> list[Check]:
    """Check that a store, or the place of a future one, can be reached and written, that it creates
    files atomically, and that its clock agrees with ours.
    """
    try:
        files = open_files(url)
        if isinstance(files, LocalFiles) and not Path(files.root).exists():
            return [_future_folder(Path(files.root))]
        found = _store_there(url)
        if isinstance(files, LocalFiles):
            found = (
                *found,
                check_disk("free disk for the store", Path(files.root), "use another folder"),
            )
        with reported(f"writing to {url}"):
            return [*found, *_tried(files)]
    except (StoreError, SweepError) as error:
        repair = "check the address, the credentials and the network; see cluster/README.md"
        return [Check("storage", "bad", str(error), repair, "storage")]


def _store_there(url: str) -> tuple[Check, ...]:
    try:
        store = Store.open(url)
    except StoreError as error:
        if "no phasegrid store there" not in str(error):
            raise
        return (Check("storage", "ok", f"{url}: no store yet; `phasegrid run` makes one"),)
    return (Check("storage", "ok", f"{url}: {counted(len(store.sweeps()), 'sweep')}"),)


def _future_folder(folder: Path) -> Check:
    parent = next(p for p in folder.parents if p.exists())
    if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
        return Check("storage", "ok", f"{folder} does not exist yet; `phasegrid run` makes it")
    found, repair = f"{folder} cannot be made: {parent} cannot be written", "name another folder"
    return Check("storage", "bad", found, repair, "storage")


def _tried(files: Files) -> Iterator[Check]:
    """Create one file from several threads at once, read it back, compare its time with ours,
    delete it.
    """
    name = f"{TEMPORARY}/doctor.{uuid.uuid4().hex}"
    try:
        started = time.time()
        winners = _race(files, name)
        now = (started + time.time()) / 2
        data, modified = files.read(name), files.modified(name)
    finally:
        files.delete(name)
    if len(winners) == 1 and data == winners[0]:
        yield Check("atomic create", "ok", f"one of {_RACERS} writers won, and its bytes are there")
    else:
        repair = (
            "results are safe, but two runs of one job may replace each other: do not run one sweep"
            " twice at a time; on NFS use version 4, on object stores one with conditional writes"
        )
        yield Check("atomic create", "note", f"{len(winners)} of {_RACERS} writers won", repair)
    yield _skew(None if modified is None else modified - now)


def _race(files: Files, name: str) -> list[bytes]:
    winners: list[bytes] = []
    errors: list[Exception] = []
    gate = threading.Barrier(_RACERS)

    def write(data: bytes) -> None:
        gate.wait()
        try:
            if files.create(name, data):
                winners.append(data)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(b"%d" % i,)) for i in range(_RACERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return winners


def _skew(seconds: float | None) -> Check:
    if seconds is None:
        return Check("clock", "skipped", "the storage does not report when a file was written")
    found = f"the storage's is {seconds:+.1f} s from ours"
    if abs(seconds) > MAX_SKEW_S:
        repair = "set the clock (NTP): ages of files decide what gc deletes and verify reports"
        return Check("clock", "note", found, repair)
    return Check("clock", "ok", found)


def check_cluster(address: str, storage: str | None = None) -> list[Check]:
    """Check a cluster: by HTTP for ``http://head:8265``, else by joining it. If a storage is given,
    every node tries it.
    """
    try:
        if address.startswith(("http://", "https://")):
            check_address(address)
            return [_jobs_server(address.rstrip("/"))]
        _connect(address)
        return list(_joined(address, storage))
    except PhasegridError as error:
        repair = (
            "is the cluster up, this its address, RAY_AUTH_MODE and the token the same? see"
            " cluster/README.md"
        )
        return [Check("cluster", "bad", str(error), repair, "cluster")]


def _jobs_server(address: str) -> Check:
    request = Request(f"{address}/api/version")
    if os.environ.get("RAY_AUTH_MODE") == "token" and (token := cluster_token()):
        # The token is not sent to where the server may redirect us, and never shown.
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    repair = (
        "open a tunnel (ssh -L 8265:127.0.0.1:8265 head, or ray dashboard cluster.yaml) and try"
        " again"
    )
    try:
        with urlopen(request, timeout=_TIMEOUT_S) as answer:
            theirs = str(json.load(answer).get("ray_version"))
    except HTTPError as error:
        if error.code in (401, 403):
            repair = (
                "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the file of the cluster's token"
            )
        return Check("cluster", "bad", f"{address}: HTTP {error.code}", repair, "cluster")
    except (URLError, OSError, ValueError) as error:
        return Check("cluster", "bad", f"{address}: {error}", repair, "cluster")
    ours = version("ray")
    if theirs != ours:
        repair = f"pip install 'ray=={theirs}' here, or {ours} there: they must be equal"
        found = f"{address} has Ray {theirs}, here it is {ours}"
        return Check("cluster", "bad", found, repair, "cluster")
    return Check("cluster", "ok", f"{address}: Ray {theirs}", place="cluster")


def _connect(address: str) -> None:
    """Fail within seconds if nothing listens there: joining a cluster would try for half a
    minute.
    """
    host, colon, port = address.rpartition(":")
    if not colon or "://" in address or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(f"connecting to {address}: {error}") from error


def _joined(address: str, storage: str | None) -> Iterator[Check]:
    from phasegrid.run.executors.ray import cards, nodes, start

    start.start_ray(address)
    try:
        yield Check("cluster", "ok", f"{address}: joined", place="cluster")
        for node in cards.ClusterCards(None, answer_s=_NODES_ANSWER_S).read() or ():
            if node.host != platform.node():  # its cards are checked with this machine
                yield from card_checks(node, node.host)
        if storage is not None:
            yield _shared(storage, nodes.probe_storage)
    finally:
        start.stop_ray()


def _shared(storage: str, probe: Callable[[str, str], list[str]]) -> Check:
    name = "storage from every node"
    try:
        store = Store.open(storage)
        warnings = probe(storage, store.id)
    except StoreError as error:
        repair = "use a shared folder or an object store, and give every node its credentials"
        return Check(name, "bad", str(error), repair, "storage")
    if warnings:
        repair = "set the clocks (NTP); see `chronyc tracking` on the node"
        return Check(name, "note", "; ".join(warnings), repair, "storage")
    return Check(name, "ok", "every node reads and writes the same store", place="storage")
