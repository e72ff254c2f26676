"""Check what is prepared beside the data sets of a folder (`phasegrid.datasets.prepared`)."""

from collections.abc import Iterator
from pathlib import Path

from phasegrid.cli.machine_checks import Check
from phasegrid.datasets.prepared import FOLDER, is_whole, kept_entries
from phasegrid.texts import counted


def check_data(folder: Path) -> Iterator[Check]:
    """Read every prepared array and compare it with its checksum, and the sources with what was
    parsed; name what belongs to no whole entry.
    """
    name, store = "prepared data", folder / FOLDER
    if not store.is_dir():
        repair = "phasegrid fetch SWEEP.yaml prepares what is slow to read"
        yield Check(name, "note", f"nothing is prepared in {folder}", repair)
        return
    whole = {entry.record: entry for entry in kept_entries(folder) if is_whole(entry.record)}
    for record, entry in whole.items():
        found = (
            f"{record.stem.rpartition('-')[0]} of {counted(len(entry.sources), 'file')}: whole,"
            f" {entry.array_bytes / 1e6:.1f} MB in {store}"
        )
        yield Check(name, "ok", found)
    stems = {record.stem for record in whole}
    others = [path for path in store.iterdir() if path.name.partition(".")[0] not in stems]
    if others:
        size = sum(path.stat().st_size for path in others)
        found = (
            f"{counted(len(others), 'file')} in {store}, {size / 1e6:.1f} MB, damaged, unfinished"
            f" or of data that changed: {', '.join(sorted(path.name for path in others)[:3])}"
        )
        repair = "nothing: they are made anew when needed; or delete them, that costs only time"
        yield Check(name, "note", found, repair)
