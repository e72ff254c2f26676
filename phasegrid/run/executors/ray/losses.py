"""Say what the error of a Ray task means: a fault of the job, or a lost process or node.

A job is to blame only for an exception that its own code raised. Everything else that ends a task
is a fault of the infrastructure. If the head has died, or Ray on this machine, the run ends with a
`ClusterError`.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeGuard

import ray
import ray.exceptions

from phasegrid.errors import ClusterError, PhasegridError, StoreError
from phasegrid.packs import Pack
from phasegrid.redaction import redact
from phasegrid.run.executors.base import PackResult
from phasegrid.run.executors.ray import probe
from phasegrid.run.executors.ray.start import first_line


def is_of_the_job(error: BaseException) -> TypeGuard[ray.exceptions.RayTaskError]:
    """Say whether an error was raised by the code of a task, not by Ray."""
    return isinstance(error, ray.exceptions.RayTaskError) and not isinstance(
        error.cause, ray.exceptions.RayError
    )


def ending_of_error(pack: Pack, error: ray.exceptions.RayTaskError, storage: str) -> PackResult:
    """Blame an error on the pack's code. An error of the storage is a fault of the node, unless the
    storage fails for the driver too.
    """
    if isinstance(error.cause, StoreError) and error.cause.fault is not None:
        return PackResult(pack, lost=probe.blame_node(error.cause, storage))
    why = redact(f"{type(error.cause).__name__}: {error.cause}")
    return PackResult(pack, lost=why, kind="app", traceback=str(error)[-8000:])


_WHY_LOST = {
    "WorkerCrashedError": (
        "its process died: killed (out of memory?), crashed, or ended by the code it ran"
    ),
    "NodeDiedError": "its node was lost",
    "OutOfMemoryError": "its process was killed because the memory of its node ran out",
}


def why_lost(error: BaseException) -> str:
    """Say why a pack was lost. Ray's own texts give advice on Ray instead."""
    name = type(error).__name__
    where = re.search(r"IP: ([0-9a-f.:]*[0-9a-f])", str(error))
    node = f" ({where[1]})" if where and name in ("NodeDiedError", "OutOfMemoryError") else ""
    own_text = " ".join(str(error).split())[:300]
    return f"{name}: {_WHY_LOST.get(name) or own_text}{node}"


@contextmanager
def ray_works() -> Iterator[None]:
    """Turn an error of Ray itself into a `ClusterError`."""
    try:
        yield
    except (PhasegridError, ray.exceptions.RayTaskError):
        raise
    except Exception as error:
        raise ClusterError(f"running on Ray: {redact(first_line(error))}") from error
