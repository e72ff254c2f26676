"""Laws of estimates of GPU memory: they count what must lie there, and what is unknown gets a whole
GPU.
"""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from phasegrid import load_sweep
from phasegrid.errors import SweepError
from phasegrid.estimates import COPIES, Workload
from phasegrid.jobs import MetricJob, Part, RequestFacts, Trial
from phasegrid.metrics import METRICS
from phasegrid.packs import Layout, Pack
from phasegrid.plan.gpu_memory import (
    MARGIN,
    PROCESS_BYTES,
    SHARES,
    STREAM_BYTES,
    gpu_share,
    lane_bytes,
    lanes_that_fit,
    pack_bytes,
    pack_share,
)
from phasegrid.plan.plan import make_plan
from phasegrid.plan.shaping import FULL
from phasegrid.registry import resolve
from phasegrid.run.executors.ray.gpus import device_of

GIB = 2**30
WORK = Workload(1000, 200, 10, 5000, 10_000, activations=300, input_size=64)
DATA = Part("digits", 1, {})


def trial(key: str, data: Part = DATA, batch: int = 32) -> Trial:
    return Trial(key, data, Part("mlp", 1, {}), {"batch_size": batch, "batch_unit": "examples"}, 0)


def train_pack(*trials: Trial) -> Pack:
    return Pack("p", "train", 0, trials)


def measure_pack(name: str, count: int = 1, version_args: dict[str, object] | None = None) -> Pack:
    metric = Part(name, 1, version_args or asdict(METRICS[name].args()))
    jobs = tuple(MetricJob(f"j{i}", metric, ("a", "b")) for i in range(count))
    return Pack("p", "measure", 0, (trial("a"), trial("b")), jobs)


def needs(pack: Pack, work: Workload | None = WORK) -> int | None:
    return pack_bytes(pack, {trial.key: work for trial in pack.trials})


def test_a_training_is_vectors_activations_and_data() -> None:
    data = 4 * 64 * 1200
    member = STREAM_BYTES + 4 * (COPIES * 5000 + 2 * 32 * (300 + 64))
    assert needs(train_pack(trial("a"))) == PROCESS_BYTES + data + member
    assert needs(train_pack(trial("a"), trial("b"))) == PROCESS_BYTES + data + 2 * member


def test_trainings_that_wait_for_a_lane_take_no_memory() -> None:
    trials = [trial(str(i), batch=2**12 * (1 + i % 3)) for i in range(30)]
    pack, works = train_pack(*trials), {t.key: WORK for t in trials}
    lanes = sorted(lane_bytes(t, WORK) for t in trials)
    resident = PROCESS_BYTES + 4 * 64 * 1200
    whole = pack_bytes(pack, works)
    assert whole == resident + sum(lanes[-FULL:])
    for fit in (FULL, 7, 1):
        room = resident + round(MARGIN * sum(lanes[-fit:])) + 1
        assert pack_bytes(pack, works, room) == resident + sum(lanes[-fit:])
    assert pack_bytes(pack, works, resident) == resident + lanes[-1], (
        "one does not fit, but is tried"
    )


def test_so_many_lanes_fit_as_the_largest_of_them_allow() -> None:
    needs = [3, 1, 2, 5, 4]
    fits = {free: lanes_that_fit(needs, free) for free in (0, 5, 8, 9, 14, 15, 99)}
    assert fits == {0: 1, 5: 1, 8: 1, 9: 2, 14: 4, 15: 5, 99: 5}


def test_a_training_with_sam_holds_three_vectors_more() -> None:
    plain = trial("a")
    sharp = replace(plain, recipe={**plain.recipe, "sam": {"rho": 0.1}})
    plain_bytes, sharp_bytes = (needs(train_pack(one)) for one in (plain, sharp))
    assert plain_bytes is not None
    assert sharp_bytes == plain_bytes + 4 * 3 * 5000


def test_each_data_set_counts_once() -> None:
    other = replace(DATA, args={"label_noise": 0.5})
    same, different = (needs(train_pack(trial("a"), trial("b", d))) for d in (DATA, other))
    assert same is not None
    assert different is not None
    assert different - same == 4 * 64 * 1200


@pytest.mark.parametrize("name", list(METRICS))
def test_every_metric_of_ours_has_an_estimate(name: str) -> None:
    need = needs(measure_pack(name))
    assert need is not None
    assert need > PROCESS_BYTES


def test_curves_that_train_together_take_memory_together() -> None:
    one, five = needs(measure_pack("connectivity")), needs(measure_pack("connectivity", 5))
    assert one is not None
    assert five is not None
    assert five > one


PLUG_INS = """
from dataclasses import dataclass
from phasegrid.declare import Metric

@dataclass(frozen=True)
class Args:
    x: int = 1

def metric(**facts):
    return Metric("pair", Args, (), print, **facts)

QUIET = metric()
LARGE = metric(memory=lambda job: job.args["x"] * job.work.num_parameters * job.num_networks)
QUARTER = metric(gpu_share=0.25)
TEXT = metric(memory=lambda job: "much")
NONE = metric(gpu_share=0.0)
"""


@pytest.fixture
def plug_ins(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(PLUG_INS)
    for name in ("QUIET", "LARGE", "QUARTER", "TEXT"):
        resolve("metric", f"mine.py:{name}", tmp_path)
    return tmp_path


@pytest.mark.usefixtures("plug_ins")
def test_what_does_not_say_what_it_takes_gets_a_gpu_for_itself() -> None:
    assert needs(train_pack(trial("a")), None) is None
    quiet = measure_pack("mine.py:QUIET", version_args={"x": 1})
    assert needs(quiet) is None
    assert pack_share(quiet, {"a": WORK, "b": WORK}, 80 * GIB) == 1.0


@pytest.mark.usefixtures("plug_ins")
def test_a_users_metric_takes_the_memory_that_it_declares() -> None:
    need = needs(measure_pack("mine.py:LARGE", version_args={"x": 7}))
    assert need == PROCESS_BYTES + 4 * 64 * 1200 + 2 * 4 * 5000 + 7 * 5000 * 2
    with pytest.raises(SweepError, match=r"mine.py:TEXT: its memory returned 'much'; allowed: int"):
        needs(measure_pack("mine.py:TEXT", version_args={"x": 1}))


@pytest.mark.usefixtures("plug_ins")
def test_a_users_metric_gets_the_share_of_a_gpu_that_it_declares() -> None:
    def share(pack: Pack, work: Workload | None = WORK) -> float:
        return pack_share(pack, {"a": work, "b": work}, 80 * GIB)

    quarter = measure_pack("mine.py:QUARTER", version_args={"x": 1})
    assert share(quarter) == share(quarter, None) == 0.25
    light = measure_pack("distance", version_args={})
    both = replace(quarter, metric_jobs=(*quarter.metric_jobs, *light.metric_jobs))
    assert share(light) == min(SHARES)
    assert share(both) == 0.25


def test_a_share_that_is_none_is_refused(plug_ins: Path) -> None:
    with pytest.raises(SweepError, match=r"NONE': gpu_share is 0.0; allowed: above 0, at most 1"):
        resolve("metric", "mine.py:NONE", plug_ins)


def test_a_share_holds_the_estimate_with_a_margin() -> None:
    for need in (GIB, 5 * GIB, 20 * GIB, 60 * GIB):
        share = gpu_share(need, 80 * GIB)
        assert share == 1 or MARGIN * need <= share * 80 * GIB
    assert gpu_share(GIB, 80 * GIB) == min(SHARES)
    assert gpu_share(None, 80 * GIB) == 1


def test_many_narrow_networks_run_at_once_and_a_few_wide_ones() -> None:
    folder = Path(__file__).parents[1] / "sweeps" / "taxonomy"
    plan = make_plan(load_sweep(folder / "f02.yaml"))
    lanes = {
        cell.load: lanes_that_fit([lane_bytes(t, cell.work) for t in cell.trials * 20], 16 * GIB)
        for cell in plan.cells
        if cell.work and cell.temperature == 128
    }
    assert lanes[1] == 100
    assert 1 <= lanes[128] <= 5


def test_trainings_take_a_whole_gpu() -> None:
    assert pack_share(train_pack(trial("a")), {"a": WORK}, 141 * GIB) == 1


@pytest.mark.parametrize(
    ("ids", "visible", "device"),
    [
        ([], None, None),
        ([0], None, "cuda:0"),
        ([3], "", "cuda:3"),
        ([3], "2,3", "cuda:1"),
        (["3"], "3", "cuda:0"),  # a Ray that narrowed the variable all the same
        (["GPU-b"], "GPU-a, GPU-b", "cuda:1"),
        (["MIG-x"], None, "cuda:0"),
    ],
)
def test_a_pack_runs_on_the_gpu_that_it_was_assigned(
    ids: list[int | str], visible: str | None, device: str | None
) -> None:
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert device_of(ids, environ) == device


def test_curves_of_many_cells_take_the_memory_of_those_that_run_at_once() -> None:
    metric = Part("connectivity", 1, asdict(METRICS["connectivity"].args()))
    request = RequestFacts(heavy=True, together=True)
    jobs = tuple(MetricJob(f"j{i}", metric, ("a", "b"), request=request) for i in range(30))
    pack = Pack("p", "measure", 0, (trial("a"), trial("b")), jobs)
    one, many = (replace(pack, layout=Layout(groups=tuple((j,) for j in some))) for some in (jobs[:1], jobs))  # fmt: skip
    works = {"a": WORK, "b": WORK}
    alone, all_at_once = pack_bytes(one, works), pack_bytes(many, works)
    assert alone is not None
    assert all_at_once is not None
    resident = PROCESS_BYTES + 4 * 64 * 1200 + 2 * 4 * 5000
    assert all_at_once - resident == FULL * (alone - resident)
    room = round(resident + 3 * MARGIN * (alone - resident)) + 1
    assert pack_bytes(many, works, room) == resident + 3 * (alone - resident)
