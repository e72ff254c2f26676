"""Read and make the file that marks a folder as a store, ``meta/store.json``."""

import json
import uuid
from typing import TYPE_CHECKING

from phasegrid.errors import StoreError
from phasegrid.store.files.base import TEMPORARY, Files
from phasegrid.version import __version__

if TYPE_CHECKING:
    pass


STORE_FORMAT = 1
MARKER = "meta/store.json"
FOLDERS = {
    "plans/",
    "plan_jobs/",
    "trials/",
    "histories/",
    "metrics/",
    "failures/",
    "tables/",
    "checkpoints/",
    "artifacts/",
    "snapshots/",
    "logs/",
    "meta/",
    f"{TEMPORARY}/",
}


def read_marker(files: Files, url: str) -> dict[str, object] | None:
    """Return what the marker says; None if there is none.

    Raises:
        StoreError: if it is damaged, or of a newer format.
    """
    try:
        text = files.read(MARKER)
    except FileNotFoundError:
        return None
    try:
        marker: dict[str, object] = json.loads(text)
        newest = int(str(marker["format"]))
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"opening store {url}: {files.path(MARKER)} is damaged ({error!r})"
        ) from error
    if newest > STORE_FORMAT:
        raise StoreError(
            f"opening store {url}: it has format {newest}, made by phasegrid"
            f" {marker.get('phasegrid')}; this is {__version__}, which reads up to {STORE_FORMAT}:"
            " upgrade phasegrid"
        )
    return marker


def make_marker(files: Files, url: str) -> dict[str, object]:
    """Make the marker of a new store. The first process that makes it draws the store's id.

    Raises:
        StoreError: if there are other things in the folder.
    """
    foreign = [e for e in files.folders("") if e not in FOLDERS and not e.startswith(".")]
    if foreign:
        raise StoreError(
            f"making a store at {url}: it contains other files ({', '.join(foreign[:3])});"
            " choose a new or empty folder"
        )
    marker = {"format": STORE_FORMAT, "phasegrid": __version__, "id": uuid.uuid4().hex}
    files.create(MARKER, json.dumps(marker).encode())
    return read_marker(files, url) or {}
