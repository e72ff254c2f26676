"""Laws of the GPUs that a run sees: what NVML says is told, what it does not say is unknown, and
what is wrong is said once, with the card and with what to do.
"""

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pynvml
import pytest
import torch
from fake_nvml import FakeCard, error, fake_nvml, lost, split
from rich.console import Console
from store_support import make_store, text_key
from typer.testing import CliRunner

from phasegrid import load_sweep
from phasegrid.cli.doctor import check_machine
from phasegrid.cli.machine_checks import card_checks
from phasegrid.cli.main import app
from phasegrid.cli.render import status_text
from phasegrid.errors import StoreError
from phasegrid.fallbacks import collected
from phasegrid.run import places
from phasegrid.run.cards import kept, nvml, ours, watch
from phasegrid.run.cards.card import GIB, Card, NodeCards, Process, as_record, card_texts
from phasegrid.run.cards.card import from_record as node_of
from phasegrid.run.cards.findings import findings_of
from phasegrid.run.cards.nvml import read_cards, read_in_time
from phasegrid.run.cards.ours import processes_of, started_by
from phasegrid.run.cards.watch import CardWatch, record_of, watched
from phasegrid.run.places import RunTarget
from phasegrid.run.progress_bar import Watch
from phasegrid.run.scheduler import Scheduler
from phasegrid.run.stopping import Stop
from phasegrid.store.store import Store
from phasegrid.store.sweeps import delete_sweep, find_use

NOWHERE = 2**22 + 1  # above the largest process id that Linux gives
HEAT, BRAKE = pynvml.nvmlClocksEventReasonSwThermalSlowdown, 0x80

Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    def put(*cards: FakeCard, init: Exception | None = None, without: tuple[str, ...] = ()) -> None:
        fake = fake_nvml(list(cards), init)
        for name in without:
            delattr(fake, name)
        monkeypatch.setitem(sys.modules, "pynvml", fake)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return put


def the_card(node: NodeCards | None) -> Card:
    assert node is not None
    (card,) = node.cards
    return card


# --- reading


def test_what_nvml_says_of_a_card_is_told(install: Install) -> None:
    install(FakeCard(processes=[(os.getpid(), GIB)], errors=3, reasons=HEAT | BRAKE | 0x4))
    assert the_card(read_cards([os.getpid()])) == Card(
        0, "GPU-aaaa", "NVIDIA H200", 97, 2 * GIB, 140 * GIB, 66, 90, ("heat", "power brake"), 3,
        (Process(os.getpid(), GIB, True),), 0,
    )  # fmt: skip


def test_the_reasons_of_slow_clocks_are_those_of_nvml() -> None:
    heat = pynvml.nvmlClocksEventReasonHwThermalSlowdown | HEAT
    assert (heat, pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown) == (nvml._HEAT, nvml._POWER_BRAKE)  # fmt: skip


@pytest.mark.parametrize(
    "why", [*map(error, ["LIBRARY_NOT_FOUND", "DRIVER_NOT_LOADED", "UNKNOWN"]), OSError("no")]
)
def test_without_a_driver_the_cards_are_unknown(install: Install, why: Exception) -> None:
    install(FakeCard(), init=why)
    assert read_cards() is None
    assert read_in_time() is None


def test_without_the_library_the_cards_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert read_cards() is None


def test_what_a_card_does_not_support_is_unknown(install: Install) -> None:
    no = error("NOT_SUPPORTED")
    install(FakeCard(use=no, used=no, temperature=no, slows_at=no, reasons=no, errors=no, processes=no))  # fmt: skip
    assert the_card(read_cards()) == Card(0, "GPU-aaaa", "NVIDIA H200")
    assert findings_of([NodeCards("here", (the_card(read_cards()),))]) == []


def test_a_binding_that_lacks_functions_leaves_only_these_unknown(install: Install) -> None:
    install(FakeCard(), without=("nvmlDeviceGetTemperatureV", "nvmlDeviceGetMigMode", "nvmlMemory_v2"))  # fmt: skip
    card = the_card(read_cards())
    assert (card.temperature_c, card.is_split, card.used_bytes) == (None, False, 2 * GIB)


def test_of_a_split_card_neither_use_nor_owners_are_told(install: Install) -> None:
    install(split(used=130 * GIB))
    card = the_card(read_cards())
    assert (card.use_percent, card.processes, card.num_foreign, card.is_split) == (None, None, None, True)  # fmt: skip
    assert findings_of([NodeCards("here", (card,))]) == []


def test_a_lost_card_is_told_beside_the_others(install: Install) -> None:
    install(FakeCard(), lost(), FakeCard("GPU-cccc", handle=error("UNKNOWN")))
    node = read_cards()
    assert node is not None
    assert [card.lost for card in node.cards] == [None, "GPU is lost", "Unknown Error"]


def test_a_card_that_this_user_may_not_use_is_left_out(install: Install) -> None:
    install(FakeCard(handle=error("NO_PERMISSION")), FakeCard("GPU-bbbb"))
    assert the_card(read_cards()).uuid == "GPU-bbbb"


@pytest.mark.parametrize(
    ("visible", "indexes"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("0,-1,1", [0]),
        ("2,0", [0, 2]),
        ("GPU-bb", [1]),
        ("GPU-bbbb, GPU-aaaa", [0, 1]),
        ("GPU-dddd", []),
        ("MIG-x", [2]),
    ],
)
def test_cards_that_a_process_was_not_given_are_left_out(
    install: Install, visible: str | None, indexes: list[int]
) -> None:
    install(FakeCard(), FakeCard("GPU-bbbb"), split(uuid="GPU-cccc"))
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    node = read_cards(environ=environ)
    assert node is not None
    assert [card.index for card in node.cards] == indexes


def test_of_split_cards_those_are_shown_whose_instances_a_process_was_given(
    install: Install,
) -> None:
    first = split(uuid="GPU-aaaa", instances={"MIG-1": GIB, "MIG-2": 2 * GIB})
    install(first, split(uuid="GPU-bbbb", instances={"MIG-3": 5 * GIB}))
    for visible, used in (("MIG-2", 2), ("MIG-1,MIG-2", 3)):
        found = the_card(read_cards(environ={"CUDA_VISIBLE_DEVICES": visible}))
        assert (found.uuid, found.used_bytes) == ("GPU-aaaa", used * GIB)
        assert found.total_bytes == 10 * GIB * (1 + visible.count(","))
        assert (found.is_split, found.processes) == (True, None)
    both = read_cards(environ={"CUDA_VISIBLE_DEVICES": "MIG-3,MIG-1"})
    assert both is not None
    assert [card.used_bytes for card in both.cards] == [GIB, 5 * GIB]


def test_a_binding_that_knows_no_instances_shows_every_split_card(install: Install) -> None:
    install(FakeCard(), split(uuid="GPU-bbbb", instances={"MIG-1": GIB}), without=("nvmlDeviceGetHandleByUUID",))  # fmt: skip
    assert the_card(read_cards(environ={"CUDA_VISIBLE_DEVICES": "MIG-1"})).uuid == "GPU-bbbb"


def test_a_card_that_does_not_answer_delays_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()
    monkeypatch.setattr(nvml, "read_cards", lambda _ours: never.wait(60))
    assert read_in_time(limit_s=0.01) is None
    never.set()


# --- whose processes


@pytest.fixture
def numbers_as_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests may run in a container."""
    monkeypatch.setattr(ours, "_numbers_as_the_host", lambda: True)


@pytest.mark.usefixtures("numbers_as_the_host")
def test_descendants_are_ours_and_others_are_not() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert started_by(child.pid, {os.getpid()}) is True
        assert started_by(child.pid, {NOWHERE}) is False
        assert started_by(1, {os.getpid()}) is False
        assert started_by(NOWHERE, {os.getpid()}) is None
    finally:
        child.communicate(b"\n")


def test_the_workers_that_noted_an_attempt_and_live_are_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = tmp_path / f"phasegrid-{os.getuid()}-run"
    folder.mkdir()
    for pid in (1, NOWHERE):
        (folder / f"crash-{pid}").touch()
    assert processes_of("run") == {os.getpid(), 1}
    assert processes_of("other") == processes_of(None) == {os.getpid()}


def test_where_a_container_numbers_processes_itself_another_number_tells_nothing(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NVML's 1 is the host's init or its driver, not the process 1 of this container."""
    install(FakeCard(processes=[(1, GIB), (os.getpid(), GIB)]))
    for own, foreign in ((True, 1), (False, 0)):
        monkeypatch.setattr(ours, "_numbers_as_the_host", lambda own=own: own)
        found = the_card(read_cards([os.getpid(), NOWHERE]))
        assert found.num_foreign == foreign
        assert found.processes is not None
        assert [p.is_ours for p in found.processes] == [False if own else None, True]


def test_in_a_container_processes_beyond_our_own_number_are_foreign(install: Install) -> None:
    """There NVML may number processes as the host does: whose one is cannot be told."""
    hidden = [(NOWHERE, GIB), (NOWHERE + 1, GIB)]
    install(FakeCard(processes=hidden))
    assert the_card(read_cards([1, 2])).num_foreign == 0
    assert the_card(read_cards([1])).num_foreign == 1


# --- findings

OURS, THEIRS = Process(7, GIB, True), Process(8, 50 * GIB, False)


def card(**known: Any) -> Card:
    return Card(1, "GPU-5a", "NVIDIA H200", **{"used_bytes": 2 * GIB, "total_bytes": 140 * GIB, **known})  # fmt: skip


@pytest.mark.parametrize(
    ("found", "kinds", "texts"),
    [
        (card(use_percent=100, temperature_c=89, slows_at_c=90), [], []),
        (card(processes=(OURS,), num_foreign=0), [], []),
        (card(lost="GPU is lost"), ["lost"], ["GPU 1 of node (NVIDIA H200, GPU-5a) is lost", "NVML: GPU is lost", "--gpu-reset -i 1"]),
        (card(slowed_by=("heat",), temperature_c=91, slows_at_c=90), ["hot"], ["91 C, slows down at 90 C"]),
        (card(slowed_by=("power brake",)), ["braked"], ["power supply"]),
        (card(uncorrected_errors=1), ["memory errors"], ["1 uncorrected error of"]),
        (card(processes=(OURS, THEIRS), num_foreign=1, used_bytes=51 * GIB), ["shared"], ["1 process of others (pid 8 with 50.0 GiB)"]),
        (card(processes=(OURS, THEIRS), num_foreign=1, used_bytes=121 * GIB), ["shared", "full"], ["others leave 20.0 of its 140.0 GiB"]),
        (card(processes=(OURS,), num_foreign=0, used_bytes=30 * GIB), ["shared"], ["this one cannot see (29.0 GiB)"]),
        (card(processes=(Process(7, 130 * GIB, True),), num_foreign=0, used_bytes=130 * GIB), [], []),  # full of us
        (card(processes=(), num_foreign=0, used_bytes=130 * GIB), [], []),  # a container that lists nothing
        (card(processes=(Process(9, GIB),), num_foreign=0, used_bytes=130 * GIB), [], []),  # of us or of others
        (card(processes=(Process(9, GIB),) * 2, num_foreign=1), ["shared"], ["1 process of others:"]),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_card_is_said_with_what_to_do(
    found: Card, kinds: list[str], texts: list[str]
) -> None:
    findings = findings_of([NodeCards("node", (found,))])
    assert [finding.kind for finding in findings] == kinds
    for text in texts:
        assert text in " ".join(finding.text for finding in findings)


def test_a_reading_survives_json_and_ignores_what_newer_releases_add() -> None:
    cards = (card(processes=(OURS, Process(9)), slowed_by=("heat",)), Card(2, lost="gone"))
    record = json.loads(json.dumps(as_record(NodeCards("node", cards))))
    assert node_of(record) == NodeCards("node", cards)
    record["cards"][0] |= {"fans": 3}
    record["cards"][0]["processes"][0] |= {"since": 1}
    assert node_of(record) == NodeCards("node", cards)


def test_lines_name_the_machine_where_there_are_several() -> None:
    one, two = NodeCards("a", (Card(0),)), NodeCards("b", (Card(0),))
    assert list(card_texts([one])) == ["GPU 0: use unknown, memory unknown"]
    assert [line[:10] for line in card_texts([one, two])] == ["GPU 0 of a", "GPU 0 of b"]


# --- the watch of a run


class Readings:
    """Gives one reading after the other, on a clock that goes on 5 s each time."""

    def __init__(self, *cards: tuple[Card, ...]) -> None:
        self.left = list(cards)
        self.now = 0.0
        self.said: list[str] = []
        self.stored: list[Any] = []
        self.stopped: list[str] = []
        self.watch = CardWatch(
            self.read, self.said.append, self.stored.append, self.stopped.append, lambda: self.now
        )
        while self.left:
            assert self.watch.look()
            self.now += 5

    def read(self) -> list[NodeCards]:
        return [NodeCards("node", self.left.pop(0))]


HOT, COOL = (card(slowed_by=("heat",)),), (card(),)


def test_a_finding_is_said_once_when_two_readings_in_a_row_have_it() -> None:
    assert Readings(HOT, COOL, HOT, COOL).said == []
    (said,) = Readings(HOT, HOT, HOT, COOL, HOT, HOT).said
    assert said.startswith("GPU 1 of node (NVIDIA H200, GPU-5a) is hot")


@pytest.mark.parametrize("gone", [(), (Card(1, lost="GPU is lost"),)])
def test_a_card_that_is_lost_is_said_at_once_by_its_name(gone: tuple[Card, ...]) -> None:
    (said,) = Readings(COOL, gone, gone).said
    assert said.startswith("GPU 1 of node (NVIDIA H200, GPU-5a) is lost")


def test_nodes_on_one_machine_lose_no_card_to_each_other() -> None:
    nodes = [
        NodeCards("a", (Card(0, "GPU-0"), Card(1, "GPU-1"))),
        NodeCards("a", (Card(1, "GPU-1"), Card(2, "GPU-2"))),
    ]
    said: list[str] = []
    watching = CardWatch(lambda: nodes, said.append, str)  # type: ignore[arg-type]
    for _ in range(3):
        assert watching.look()
    assert [line[:5] for line in watching.lines()] == ["GPU 0", "GPU 1", "GPU 2"]
    assert said == []


def test_cards_that_are_unknown_for_a_while_are_not_lost() -> None:
    readings = Readings(COOL)
    readings.watch.read = lambda: None
    assert readings.watch.look()
    readings.watch.read, readings.left = readings.read, [COOL]
    assert readings.watch.look()
    assert readings.said == []


def test_a_run_that_has_lost_all_its_cards_stops() -> None:
    gone = Card(0, lost="GPU is lost")
    assert Readings((), (gone, Card(1))).stopped == []
    unknown = [NodeCards("a", (gone,)), NodeCards("b", ())]  # the cards of b may work
    CardWatch(lambda: unknown, str, str, pytest.fail).look()  # type: ignore[arg-type]
    assert Readings((gone,)).stopped == ["every GPU of the run is lost"]


def test_a_card_that_only_changed_its_number_is_not_lost() -> None:
    other = Card(2, "GPU-5a", "NVIDIA H200")
    assert Readings(COOL, (other,)).said == []


def test_the_latest_reading_is_kept_now_and_then_and_at_news() -> None:
    assert len(Readings(*[COOL] * 7).stored) == 3  # at 0, 15 and 30 s
    assert len(Readings(COOL, *[HOT] * 5).stored) == 3  # at 0, at the news at 10, 15 s later


def test_a_reading_that_cannot_be_kept_stops_nothing() -> None:
    def fail(_record: Any) -> None:
        raise StoreError("full")

    node = NodeCards("node", HOT)
    said: list[str] = []
    with collected() as fallbacks:
        watching = CardWatch(lambda: [node], said.append, fail)
        assert watching.look()
        assert watching.look()
    assert len(said) == 1
    assert ["status" in what for what in fallbacks] == [True]


def test_a_run_neither_waits_for_nvml_nor_looks_on_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LEAVE_S", 0.01)
    never, looks = threading.Event(), []

    def read() -> None:
        looks.append(threading.current_thread())
        never.wait(60)

    with watched(CardWatch(read, print, print), every_s=0.0):
        pass
    never.set()
    looks[0].join()  # it ends itself, since the cards will never be known
    assert len(looks) == 1


def test_a_line_that_is_old_says_so() -> None:
    readings = Readings(COOL)
    assert readings.watch.lines() == ("GPU 1: use unknown, 2.0 of 140.0 GiB",)
    readings.now = 60.0
    assert readings.watch.lines() == ("GPU 1: use unknown, 2.0 of 140.0 GiB (1 min 00 s ago)",)


def test_the_panel_shows_a_line_for_each_card() -> None:
    cards = Readings((card(), Card(2, use_percent=97))).watch
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=200)
    with Watch(console, cards=cards) as panel:
        panel("tick", Scheduler([], set()), None, None)
    assert "GPU 1: use unknown, 2.0 of 140.0 GiB" in out.getvalue()
    assert "GPU 2: 97% busy, memory unknown" in out.getvalue()


@pytest.mark.parametrize(
    "where", [RunTarget(device="cpu"), RunTarget(serial=True, device="cpu"), RunTarget(serial=True)]
)
def test_a_run_that_uses_no_gpu_watches_none(
    install: Install, monkeypatch: pytest.MonkeyPatch, where: RunTarget
) -> None:
    install(FakeCard())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert places._card_reader(where, "run")() is None


TOY = {
    "schema": 1,
    "name": "toy",
    "dataset": {"name": "digits"},
    "model": {"name": "mlp"},
    "train": {"epochs": 1},
    "seeds": 1,
}


@pytest.mark.usefixtures("numbers_as_the_host")
def test_a_serial_run_reads_its_own_cards_and_keeps_them(
    install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(FakeCard(processes=[(os.getpid(), GIB), (1, 9 * GIB)]))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    out, store = io.StringIO(), make_store(tmp_path)
    where, console, stop = RunTarget(serial=True), Console(file=out, width=400), Stop()
    sweep = load_sweep(TOY)
    with places.cards_watched(where, store, sweep, console, None, stop) as cards:
        cards.look()
        cards.look()
    assert out.getvalue().startswith("warning: GPU 0 of ")
    assert "shared with 1 process of others (pid 1 with 9.0 GiB)" in out.getvalue()
    found = kept.read_kept(store, "toy")
    assert found is not None
    assert the_card(found.nodes[0]).use_percent == 97
    assert stop.why is None


@pytest.mark.parametrize(("num_gpus", "stops"), [(None, True), (1, True), (0, False)])
def test_a_run_whose_packs_need_no_gpu_goes_on_without_any(
    install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, num_gpus: Any, stops: bool
) -> None:
    install(FakeCard(handle=error("GPU_IS_LOST")))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    sweep = load_sweep({**TOY, "resources": {"num_gpus": num_gpus}})
    where, console, stop = RunTarget(serial=True), Console(file=io.StringIO()), Stop()
    with places.cards_watched(where, make_store(tmp_path), sweep, console, None, stop) as cards:
        cards.look()
    assert (stop.why is not None) == stops


# --- status and doctor


def planned(tmp_path: Path) -> Store:
    store = make_store(tmp_path)
    store.put_plan("toy", [{"cell": 0, "seed": 0, "key": text_key("a")}], [])
    return store


def test_status_shows_the_cards_of_the_latest_run_with_their_age(tmp_path: Path) -> None:
    store = planned(tmp_path)
    assert json.loads(status_text(store, "toy", True))[0]["gpus"] is None
    seen_at = datetime.now(UTC) - timedelta(minutes=5)
    store.notes.put_cards("toy", record_of([NodeCards("node", HOT)], seen_at))
    text = status_text(store, "toy", False)
    assert "  GPU 1: use unknown, 2.0 of 140.0 GiB, slowed by heat (5 min 0" in text
    assert "  warning: GPU 1 of node (NVIDIA H200, GPU-5a) is hot" in text
    (state,) = json.loads(status_text(store, "toy", True))
    assert 300 <= state["gpus"]["age_s"] < 360
    assert len(state["gpus"]["findings"]) == 1
    assert state["gpus"]["nodes"][0]["cards"][0]["slowed_by"] == ["heat"]


SEEN = b'"seen_at": "2026-01-01T00:00:00+00:00"'


@pytest.mark.parametrize(
    "damage",
    [
        b"{",
        b"[]",
        b"{}",
        b'{"nodes": [3], "seen_at": "x"}',
        b'{"nodes": [{"host": "h", "cards": [{"index": 0, "used_bytes": "1"}]}], ' + SEEN + b"}",
        b'{"nodes": [{"host": "h", "cards": [{"index": 0, "processes": [{"pid": 1, "used_bytes": []}]}]}], '
        + SEEN
        + b"}",
    ],
)
def test_status_passes_over_what_is_damaged(tmp_path: Path, damage: bytes) -> None:
    store = planned(tmp_path)
    store.files.replace("meta/cards/toy.json", lambda file: file.write(damage))
    with collected() as fallbacks:
        assert "GPU" not in status_text(store, "toy", False)
    assert len(fallbacks) == 1


def test_the_reading_of_a_sweep_is_deleted_with_it(tmp_path: Path) -> None:
    store = planned(tmp_path)
    store.notes.put_cards("toy", record_of([], datetime.now(UTC)))
    delete_sweep(store, find_use(store, "toy"))
    assert store.notes.read_cards("toy") is None


def test_doctor_lists_the_cards_and_what_is_wrong_with_them(install: Install) -> None:
    install(FakeCard(processes=[(1, GIB)]), FakeCard("GPU-bbbb"), lost())
    checks = {check.name: check for check in check_machine()}
    states = [checks[f"gpu {index}"].state for index in range(3)]
    assert states == ["note", "ok", "bad"]
    assert checks["gpu 1"].found == "97% busy, 2.0 of 140.0 GiB, 66 C, NVIDIA H200"
    assert "shared with 1 process" in checks["gpu 0"].repair
    assert "is lost" in checks["gpu 2"].repair
    assert not checks["gpu 1"].repair


def test_doctor_says_nothing_of_cards_that_are_unknown(install: Install) -> None:
    assert list(card_checks(None)) == []
    install(init=error("DRIVER_NOT_LOADED"))
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 0
    names = [check["name"] for check in json.loads(done.stdout)]
    assert "gpu" in names
    assert not any(name.startswith("gpu ") for name in names)


@pytest.mark.gpu
def test_a_real_card_tells_its_memory_and_knows_this_process() -> None:
    held = torch.ones(2**28, device="cuda")  # 1 GiB
    torch.cuda.synchronize()
    node = read_in_time({os.getpid()})
    assert node is not None
    uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    (found,) = [card for card in node.cards if card.uuid == uuid]
    assert found.lost is None
    assert found.used_bytes is not None
    assert found.total_bytes is not None
    assert held.numel() * 4 <= found.used_bytes <= found.total_bytes
    assert found.temperature_c is None or 0 < found.temperature_c < 120
    assert not any(process.pid == os.getpid() and not process.is_ours for process in found.processes or ())  # fmt: skip
