"""Track the progress of unfinished trainings, which have no results to show yet.

In the process of the run, progress is noted in memory. A worker on the run's machine writes it to
the node's folder, where the run reads it. The progress of other nodes is unknown.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from phasegrid.run.worker import node_folder
from phasegrid.texts import counted

WRITE_EVERY_S = 1.0
_SUFFIX = ".epochs"


@dataclass(slots=True)
class Underway:
    """Epochs that are done, by pack. `run` names the folder in which workers note their epochs;
    `changed` is called when one is noted in this process.
    """

    run: str | None = None
    changed: Callable[[], None] = lambda: None
    _epochs: dict[str, tuple[int, int]] = field(default_factory=dict)

    def note(self, pack: str, epoch: int, epochs: int) -> None:
        """Note that a pack has done `epoch` of its `epochs`."""
        self._epochs[pack] = (epoch, epochs)
        self.changed()

    def of(self, packs: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Return the epoch and the number of epochs of those of these packs for which they are
        known.
        """
        found = {pack: self._epochs.get(pack) or self._read(pack) for pack in packs}
        return {pack: epochs for pack, epochs in found.items() if epochs is not None}

    def _read(self, pack: str) -> tuple[int, int] | None:
        if self.run is None:
            return None
        with suppress(OSError, ValueError):  # not written yet, or incomplete
            text = (node_folder.folder_of(self.run) / f"{pack}{_SUFFIX}").read_text()
            epoch, epochs = map(int, text.split())
            return epoch, epochs
        return None


@dataclass(slots=True)
class Noted:
    """The progress of a pack, which a worker writes into the folder of a run, at most once a
    second.
    """

    run: str | None
    pack: str
    clock: Callable[[], float] = time.monotonic
    _due: float | None = None
    _written: bool = False

    def note(self, epoch: int, epochs: int) -> None:
        """Note that `epoch` of `epochs` are done. For a pack that takes only a moment, nothing is
        written.
        """
        now = self.clock()
        if self._due is None:
            self._due = now + WRITE_EVERY_S
        if self.run is None or now < self._due:
            return
        self._due = now + WRITE_EVERY_S
        folder = node_folder.enter(self.run)
        if folder is not None:
            with suppress(OSError):
                (folder / f"{self.pack}{_SUFFIX}").write_text(f"{epoch} {epochs}\n")
                self._written = True

    def forget(self) -> None:
        """Delete the note: the pack has ended."""
        if self._written and self.run is not None:
            with suppress(OSError):
                (node_folder.folder_of(self.run) / f"{self.pack}{_SUFFIX}").unlink()


def epochs_text(epochs: Iterable[tuple[int, int]]) -> str:
    """Write how far trainings have come.

    >>> epochs_text([(35, 90)]), epochs_text([(12, 90), (35, 90)]), epochs_text([])
    ('epoch 35 of 90', 'epochs 12 to 35 of 90 in 2 packs', '')
    """
    found = sorted(epochs)
    if not found:
        return ""
    totals = {total for _, total in found}
    of = f" of {totals.pop()}" if len(totals) == 1 else ""
    if len(found) == 1:
        return f"epoch {found[0][0]}{of}"
    return f"epochs {found[0][0]} to {found[-1][0]}{of} in {counted(len(found), 'pack')}"
