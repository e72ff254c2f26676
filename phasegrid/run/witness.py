"""The process that watches a serial run; `phasegrid.run.crashes` starts it as a separate program
that imports nothing from phasegrid.

It reads the reports of the run (lines that begin with a mark) and, after the run's death, the
output of Python's `faulthandler`. The pipe closes when the run ends, however it ends. Unless the
run has announced its end, the witness then reports a crash.
"""

import sys
from collections.abc import Iterable

DOING, ENDED = "\x01", "\x02"
SIGNALS = {
    "Segmentation fault": "SIGSEGV",
    "Aborted": "SIGABRT",
    "Bus error": "SIGBUS",
    "Illegal instruction": "SIGILL",
    "Floating-point exception": "SIGFPE",
}
"""The names that faulthandler gives to the signals that it handles."""

_FRAMES = 6


def cause(text: str) -> str:
    """Say in a few words why a process that left `text` has died."""
    first = text.strip().split("\n", 1)[0]
    name = first.removeprefix("Fatal Python error: ")
    return f"its process died of {SIGNALS[name]}" if name in SIGNALS else first


def tell(lines: Iterable[str]) -> str | None:
    """Return the message to print after the last line of a run; None if it has ended as it
    should.
    """
    doing = ""
    left: list[str] = []
    for line in lines:
        if line.startswith(ENDED):
            return None
        if line.startswith(DOING):
            doing, left = line[len(DOING) :].strip(), []
        else:
            left.append(line.rstrip("\n"))
    text = "\n".join(left)
    why = (
        cause(text)
        if text.strip()
        else "its process was killed (out of memory?), or ended by the code it ran"
    )
    frames = [line for line in left if line.startswith("  File ")][:_FRAMES]
    told = [f"phasegrid run --serial: {why}", *(frames and ["while it was in", *frames])]
    told += [f"The jobs it was doing: {doing}." if doing else "It was doing no job."]
    told += [
        (
            "Finished jobs are stored. Run the same command without --serial: then each job has"
            " its own process, a job that crashes its"
        ),
        (
            "process is named, and the others are done. `phasegrid doctor` reports known"
            " problems of this machine."
        ),
    ]
    return "\n".join(told)


if __name__ == "__main__":
    message = tell(sys.stdin)
    if message is not None:
        print(f"\n{message}", file=sys.stderr, flush=True)
