"""Whether the head of a cluster still answers.

Asked by a plain connection: Ray's own questions to a head that is gone wait for it, and after a minute Ray ends the
process that asks, with no word about what it was doing.
"""

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from phasegrid.errors import ClusterError

PATIENCE_S = (
    30.0  # less than the minute after which Ray ends the process, more than a busy head takes
)
ASK_EVERY_S = 1.0
CONNECT_TIMEOUT_S = 5.0


def can_connect(address: str) -> bool:
    """Say whether something takes connections at ``host:port``."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S):
            return True
    except OSError:
        return False


@dataclass(slots=True)
class HeadWatch:
    """The head at `address` (``host:port`` of its GCS), asked once a second at most."""

    address: str
    patience_s: float = PATIENCE_S
    connect: Callable[[str], bool] = can_connect
    clock: Callable[[], float] = time.monotonic
    _ask_at: float | None = None
    _silent_since: float | None = None

    def answers(self) -> bool:
        """Say whether the head answers, as of a second ago at most.

        Raises:
            ClusterError: if it has not answered for `patience_s`.
        """
        now = self.clock()
        if self._ask_at is not None and now < self._ask_at:
            return self._silent_since is None
        self._ask_at = now + ASK_EVERY_S
        if self.connect(self.address):
            self._silent_since = None
            return True
        if self._silent_since is None:
            self._silent_since = now
        if now - self._silent_since >= self.patience_s:
            raise ClusterError(
                f"running on Ray: its head at {self.address} has not answered for {self.patience_s:.0f} s; it was "
                "stopped or killed, its machine was lost, or the network is down"
            )
        return False
