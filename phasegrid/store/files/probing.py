"""Try whether files can be written and read."""

import os
import uuid
from contextlib import suppress

from phasegrid.store.files.base import TEMPORARY, Files

PROBE_BYTES = 2**22  # 4 MiB: a run does not fit into less room


def can_read_what_it_writes(files: Files) -> bool:
    """Write a file of `PROBE_BYTES`, read it back and delete it; say whether it was the same.

    Raises:
        OSError: if any of this fails, for example without room.
    """
    name, data = f"{TEMPORARY}/probe.{uuid.uuid4().hex}", os.urandom(PROBE_BYTES)
    try:
        files.create(name, data)
        found = files.read(name)
    finally:
        with suppress(Exception):  # the earlier error says more
            files.delete(name)
    return found == data
