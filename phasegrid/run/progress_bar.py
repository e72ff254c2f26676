"""Show the progress of a run on stderr: one live line on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from phasegrid.packs import Pack
from phasegrid.run.cards.watch import CardWatch
from phasegrid.run.executors.base import PackResult
from phasegrid.run.scheduler import Scheduler
from phasegrid.run.underway import Underway, epochs_text
from phasegrid.texts import duration

_LOOK_EVERY_S = 0.5  # of terminals; elsewhere lines are far less frequent
_ETA_EVERY_S = 1.0  # it looks at every open pack, of which there may be 100,000


@dataclass(slots=True)
class Watch:
    """Show a run: a bar with an ETA on a terminal, a line every `every_s` seconds elsewhere,
    failures as they happen.

    `name_of` names the job of a key for people; `underway` tells the progress of unfinished
    trainings; the lines of `cards` stand below the bar.
    """

    console: Console
    quiet: bool = False
    name_of: Callable[[str], str] = str
    every_s: float = 15.0
    clock: Callable[[], float] = time.monotonic
    underway: Underway = field(default_factory=Underway)
    cards: CardWatch | None = None
    _last: Scheduler | None = None
    _looked: float = -1.0
    _epochs: dict[str, tuple[int, int]] = field(default_factory=dict)
    _bar: Progress | None = None
    _live: Live | None = None
    _task: int = 0
    _started: float = 0.0
    _said: float = 0.0
    _eta_text: str = "ETA ..."
    _eta_due: float = 2.0
    _shown_failures: set[str] = field(default_factory=set)

    def __enter__(self) -> "Watch":
        self._started = self._said = self.clock()
        self.underway.changed = self._look_again
        if self.console.is_terminal and not self.quiet:
            self._bar = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[eta]}"),
                TextColumn("{task.fields[note]}"),
                console=self.console,
            )
            self._live = Live(get_renderable=self._panel, console=self.console)
            self._live.start()
            self._task = self._bar.add_task("jobs", total=None, eta="", note="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Literal[False]:
        if self._live:
            self._live.stop()
        return False

    def __call__(
        self, event: str, scheduler: Scheduler, pack: Pack | None, ending: PackResult | None
    ) -> None:
        """Take an event of the run loop."""
        if event == "finished" and ending is not None:
            for outcome in ending.outcomes:
                if outcome.status == "failed":
                    self._show_failure(outcome.key, outcome.error)
        if event == "lost" and ending is not None and pack is not None:
            first, *others = pack.job_keys()
            if first in scheduler.failures:
                self._show_failure(first, scheduler.failures[first])
            else:
                more = f" and {len(others)} more" if others else ""
                self._say(f"lost {self.name_of(first)}{more}, to be tried again: {ending.lost}")
        self._last = scheduler
        self._show(scheduler)

    def _panel(self) -> RenderableType:
        """Return the bar, with a line for each card below it."""
        assert self._bar is not None
        lines = self.cards.lines() if self.cards else ()
        texts = (Text(line, "dim", overflow="ellipsis", no_wrap=True) for line in lines)
        return Group(self._bar.get_renderable(), *texts)

    def _look_again(self) -> None:
        """Show the progress of a pack in this process, during which there are no other events."""
        if self._last is not None and self.clock() >= self._looked + _LOOK_EVERY_S:
            self._show(self._last)

    def _show_failure(self, key: str, why: str | None) -> None:
        if key not in self._shown_failures:
            self._shown_failures.add(key)
            self.console.print("failed ", style="red", end="", markup=False, highlight=False)
            self._say(f"{self.name_of(key)} ({key}): {_first_line(why)}")

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def _show(self, scheduler: Scheduler) -> None:
        counts, now = scheduler.counts, self.clock()
        if self.quiet or (self._bar is None and now - self._said < self.every_s):
            return
        if now >= self._looked + _LOOK_EVERY_S:
            self._looked = now
            self._epochs = self.underway.of(p.key for p in scheduler.cut_off if p.kind == "train")
        notes = [epochs_text(self._epochs.values())]
        notes += [f"{counts.failed} failed"] if counts.failed else []
        note = ", ".join(text for text in notes if text)
        if self._bar:
            self._bar.update(
                self._task,  # type: ignore[arg-type]  # a TaskID of rich is an int
                total=counts.total,
                completed=counts.stored + counts.failed + counts.blocked,
                eta=self._eta(scheduler, now),
                note=note,
            )
        else:
            self._said = now
            parts = (f"{counts.stored}/{counts.total} jobs", note, self._eta(scheduler, now))
            self.console.print(", ".join(part for part in parts if part), highlight=False)

    def _eta(self, scheduler: Scheduler, now: float) -> str:
        elapsed = now - self._started
        half_done = sum(
            pack.cost_s * epoch / epochs
            for pack in scheduler.cut_off
            for epoch, epochs in [self._epochs.get(pack.key, (0, 1))]
        )
        done = scheduler.done_cost_s + half_done
        if elapsed >= self._eta_due and done > 0:
            self._eta_due = elapsed + _ETA_EVERY_S
            left_s = elapsed * max(0.0, scheduler.open_cost_s - half_done) / done
            whole = round(left_s) or not scheduler.in_flight  # epochs are not all that is to do
            self._eta_text = f"ETA {duration(left_s)}" if whole else "ETA a moment"
        return self._eta_text


def _first_line(text: str | None) -> str:
    return (text or "unknown error").strip().split("\n")[0][:300]
