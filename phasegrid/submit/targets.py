"""Check where a sweep is submitted to: the address of the cluster, and the storage."""

import os
from urllib.parse import urlsplit

from phasegrid.errors import SweepError
from phasegrid.redaction import refuse_secrets
from phasegrid.store.files.urls import local_path


def check_address(address: str) -> None:
    """Refuse an address where Ray Jobs cannot be.

    Raises:
        SweepError: saying why, and what to write.
    """
    scheme, separator, rest = address.partition("://")
    host = rest.partition("/")[0].rpartition(":")[0] or rest.partition("/")[0]
    if scheme == "ray":
        raise SweepError(
            f"--address {address}: that is Ray Client, which ends the run when this machine goes"
            f" away; write http://{host or 'HEAD'}:8265, the address of the head's dashboard"
        )
    if not separator:
        host = address.partition(":")[0] if address != "auto" else ""
        raise SweepError(
            f"--address {address}: jobs are sent over HTTP to the head's dashboard, not to Ray's"
            f" own port (6379); write http://{host or 'HEAD'}:8265 (or https://...)"
        )
    refuse_secrets(address, "--address")
    try:
        parts = urlsplit(address)
        wrong = scheme not in ("http", "https") or not parts.hostname or parts.port == 0
    except ValueError:  # a port that is no number
        wrong = True
    if wrong:
        raise SweepError(f"--address {address}: write http://HEAD:8265 or https://HEAD")


def checked_storage(storage: str, shared: bool) -> str:
    """Return the storage in the form that the cluster needs: a URL, or an absolute path.

    A relative path means another folder on every machine. With `shared`, the folder has the same
    absolute path there as here.

    Raises:
        SweepError: for a relative path without `shared`, a store in memory, or credentials in a
        URL.
    """
    refuse_secrets(storage, "--storage")
    if storage.startswith("memory://"):
        raise SweepError(f"--storage {storage}: memory belongs to one process and is lost with it")
    full = local_path(storage)
    if full is None:
        return storage
    if shared or os.path.isabs(storage) or storage.lower().startswith("file:"):
        return full
    raise SweepError(
        f"--storage {storage}: a relative path is another folder on every node of the cluster, and"
        " in a submitted job one that is deleted with it. Give a URL (s3://bucket/results) or the"
        f" absolute path of a folder that all nodes share; if {full} is the same folder on all of"
        " them, add --shared-storage"
    )
