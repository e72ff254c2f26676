"""``phasegrid`` as a user calls it, but that trainings save a snapshot several times a second, not
once a minute.
"""

from functools import partial

from phasegrid.cli import main as cli
from phasegrid.run import places
from phasegrid.run.executors.base import PackOptions

EVERY_S = 0.3


def main() -> None:
    places.PackOptions = partial(PackOptions, snapshot_every_s=EVERY_S)  # type: ignore[assignment,misc]
    cli.main()


if __name__ == "__main__":
    main()
