"""A head that answers, does not for a moment, or is gone."""

import socket
from dataclasses import dataclass, field

import pytest

from phasegrid.errors import ClusterError
from phasegrid.run.executors.ray.head import HeadWatch, can_connect, greet, refuses


@dataclass
class Head:
    """A head that answers when `up`, and a clock that is set by hand."""

    up: bool = True
    now: float = 0.0
    asked: list[str] = field(default_factory=list)

    def connect(self, address: str) -> bool:
        self.asked.append(address)
        return self.up

    def watch(self) -> HeadWatch:
        return HeadWatch("head:6379", connect=self.connect, clock=lambda: self.now)


def test_a_head_that_answers_is_asked_once_a_second() -> None:
    head = Head()
    watch = head.watch()
    for head.now in (0.0, 0.5, 0.9, 1.0, 1.5):
        assert watch.answers()
    assert head.asked == ["head:6379", "head:6379"]


def test_a_head_that_is_silent_for_a_moment_is_waited_for() -> None:
    head = Head(up=False)
    watch = head.watch()
    for head.now in (0.0, 10.0, 29.0):
        assert not watch.answers()
    head.up = True
    assert not watch.answers()  # as of the last time it was asked
    head.now = 30.5
    assert watch.answers()
    head.up = False
    for head.now in (40.0, 69.0):  # its patience begins anew
        assert not watch.answers()


def test_a_head_that_is_gone_is_an_error_that_names_it() -> None:
    head = Head(up=False)
    watch = head.watch()
    assert not watch.answers()
    head.now = 30.0
    with pytest.raises(ClusterError, match=r"its head at head:6379 has not answered for 30 s"):
        watch.answers()


def test_what_listens_can_be_connected_to_and_what_does_not_cannot() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*server.getsockname())
        assert not can_connect(address)
        server.listen()
        assert can_connect(address)


def test_an_address_of_ipv6_is_understood() -> None:
    try:
        server = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    with server:
        assert can_connect(f"[::1]:{server.getsockname()[1]}")


def test_what_refuses_connections_on_this_machine_twice_is_dead_and_once_is_not() -> None:
    head, refusing = Head(), {"here:2"}
    watch = head.watch()
    watch.here = (("gcs_server", "here:1"), ("raylet", "here:2"))
    watch.refuses = refusing.__contains__
    assert watch.answers()
    refusing.clear()
    head.now = 1.0
    assert watch.answers()
    refusing.add("here:2")
    head.now = 2.0
    assert watch.answers()
    head.now = 3.0
    with pytest.raises(ClusterError, match="its raylet on this machine has died"):
        watch.answers()


def test_after_a_loss_one_refusal_says_enough() -> None:
    watch = Head().watch()
    watch.here = (("raylet", "here:2"),)
    watch.refuses = lambda _: False
    watch.after_a_loss()
    watch.refuses = lambda _: True
    with pytest.raises(ClusterError, match="its raylet on this machine has died"):
        watch.after_a_loss()


def test_a_port_that_nobody_has_refuses_and_one_that_listens_does_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert not refuses(address)
        assert greet(address, 0.1)[0] == "silent"
    assert refuses(address)
    assert greet(address)[0] == "refused"
