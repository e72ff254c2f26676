"""Check whether the head of a cluster still answers, and whether Ray's processes on this machine
live.

The check is a plain connection. A call of Ray to a lost head would wait, and after a minute Ray
ends the calling process without a word about what it was doing. A driver needs the raylet of its
own machine to start anything.
"""

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from phasegrid.errors import ClusterError

PATIENCE_S = 30.0  # less than Ray's minute, more than a busy head takes
ASK_EVERY_S = 1.0
CONNECT_TIMEOUT_S = 5.0
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
# The type (fourth byte) of the first frame that every HTTP/2 server sends (RFC 9113, 3.4).
_SETTINGS = 4

Greeting = Literal["speaks", "other", "silent", "refused"]


def can_connect(address: str) -> bool:
    """Say whether something accepts connections at ``host:port``."""
    try:
        with socket.create_connection(_split(address), CONNECT_TIMEOUT_S):
            return True
    except OSError:
        return False


def refuses(address: str) -> bool:
    """Say whether connections to ``host:port`` are refused: the machine is up, and nobody listens
    there.
    """
    try:
        with socket.create_connection(_split(address), CONNECT_TIMEOUT_S):
            return False
    except ConnectionRefusedError:
        return True
    except OSError:
        return False


def greet(address: str, timeout_s: float = CONNECT_TIMEOUT_S) -> tuple[Greeting, str]:
    """Say whether a head (which speaks gRPC, over HTTP/2) is at ``host:port``; if not, say also
    what was found there.

    A process that is stopped or hangs still accepts connections, but sends nothing.
    """
    try:
        with socket.create_connection(_split(address), timeout_s) as head:
            head.settimeout(timeout_s)
            head.sendall(_GREETING)
            answer = head.recv(9)
    except TimeoutError:
        return "silent", "no answer"
    except OSError as error:
        return "refused", (error.strerror or str(error)).lower()
    if len(answer) > 3 and answer[3] == _SETTINGS:
        return "speaks", ""
    return "other", "the process that listens there is not the head of a Ray cluster"


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


@dataclass(slots=True)
class HeadWatch:
    """The head at `address` (``host:port`` of its GCS). It is asked at most once a second.

    `here` names the parts of the cluster on this machine, and where each listens. A part that
    refuses connections twice in a row is dead.
    """

    address: str
    patience_s: float = PATIENCE_S
    connect: Callable[[str], bool] = can_connect
    clock: Callable[[], float] = time.monotonic
    here: tuple[tuple[str, str], ...] = ()
    refuses: Callable[[str], bool] = refuses
    _ask_at: float | None = None
    _silent_since: float | None = None
    _refused: str | None = None

    def answers(self) -> bool:
        """Say whether the head answers; the answer is at most a second old.

        Raises:
            ClusterError: if it has not answered for `patience_s`, or if a part of Ray on this
                machine is dead.
        """
        now = self.clock()
        if self._ask_at is not None and now < self._ask_at:
            return self._silent_since is None
        self._ask_at = now + ASK_EVERY_S
        self._look_here()
        if self.connect(self.address):
            self._silent_since = None
            return True
        if self._silent_since is None:
            self._silent_since = now
        if now - self._silent_since >= self.patience_s:
            raise ClusterError(
                f"running on Ray: its head at {self.address} has not answered for"
                f" {self.patience_s:.0f} s; it was stopped or killed, its machine was lost, or the"
                " network is down"
            )
        return False

    def after_a_loss(self) -> None:
        """After lost work, check that no part of Ray on this machine is dead.

        Raises:
            ClusterError: if one is dead.
        """
        for part, address in self.here:
            if self.refuses(address):
                raise dead(part)

    def _look_here(self) -> None:
        refused = next((part for part, address in self.here if self.refuses(address)), None)
        if refused is not None and refused == self._refused:
            raise dead(refused)
        self._refused = refused


def dead(part: str) -> ClusterError:
    """Return the error for a dead part of Ray on this machine, without which nothing can start."""
    return ClusterError(
        f"running on Ray: its {part} on this machine has died: it crashed or was killed (out of"
        f" memory?)"
    )
