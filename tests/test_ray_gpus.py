"""GPUs as Ray counts them, without any: parts of one, all of one the second time, and the device a
worker is told of.

Ray believes the number of GPUs that it is told; nothing here runs on one. In a process of its own,
which takes its Ray with it.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from phasegrid.run.executors.base import PackOptions
from phasegrid.run.executors.ray.task import on_device

SCRIPT = """
import json, os, sys
import ray
from phasegrid.run.executors.ray import gpus
from phasegrid.run.executors.base import PackOptions
from phasegrid.jobs import Part, Trial
from phasegrid.packs import Pack
from phasegrid.run.executors.ray.executor import RayExecutor
from phasegrid.run.executors.ray.nodes import smallest_gpu
from phasegrid.store.store import Store
from phasegrid.config.types import Resources

os.environ[gpus.NOSET_VARIABLE] = "1"
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
os.environ.pop("CUDA_VISIBLE_DEVICES", None)
ray.init(address="local", num_cpus=4, num_gpus=2, include_dashboard=False, object_store_memory=10**8,
         logging_level="ERROR", log_to_driver=False)
store = Store.open(sys.argv[1], create=True)
executor = RayExecutor(store.url, PackOptions(), share_of=lambda pack: 0.25)
trial = Trial("a" * 32, Part("none", 1, {}), Part("none", 1, {}), {}, 0)
for pack in (Pack("one", "train", 0, ()), Pack("two", "train", 0, (trial,)), Pack("other", "train", 0, (trial,))):
    executor.submit(pack)  # the last is a part of one that was tried before
endings = []
while len(endings) < 3:
    endings += executor.wait(10)

@ray.remote(num_cpus=0, num_gpus=1)
class Worker:
    def told(self):
        return gpus.device_of(ray.get_gpu_ids()), os.environ.get("CUDA_VISIBLE_DEVICES")

workers = [Worker.remote() for _ in range(2)]  # at once, one on each GPU
of_two = ray.get([worker.told.remote() for worker in workers])
del workers
on_cpus = RayExecutor(store.url, PackOptions("cpu"))
on_cpus.submit(Pack("cpu", "train", 0, ()))
decided = RayExecutor(store.url, PackOptions(), Resources(num_gpus=0.5))
print(json.dumps({
    "lost": [ending.lost for ending in endings],
    "gpus": sorted(need.num_gpus for need in executor._tasks),
    "cpus": [on_cpus.parallel, *(need.num_gpus for need in on_cpus._tasks)],
    "half": decided.parallel,
    "whole": RayExecutor(store.url, PackOptions()).parallel,
    "told": sorted(device for device, _ in of_two),
    "visible": [visible for _, visible in of_two],
    "smallest": smallest_gpu(),
}))
ray.shutdown()
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("gpus")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder / "store")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_pack_gets_its_part_and_one_that_is_tried_again_all(seen: Any) -> None:
    assert seen["lost"] == [None, None, None]
    assert seen["gpus"] == [0.25, 1.0]


def test_as_many_trainings_run_at_once_as_cpus_and_gpus_allow(seen: Any) -> None:
    assert (seen["half"], seen["whole"]) == (4, 2)


def test_packs_that_are_to_run_on_cpus_take_no_gpu(seen: Any) -> None:
    assert seen["cpus"] == [4, 0.0]


def test_workers_beside_each_other_are_told_different_gpus_and_see_all(seen: Any) -> None:
    assert seen["told"] == ["cuda:0", "cuda:1"]
    assert seen["visible"] == [None, None]


def test_a_cluster_whose_gpus_torch_does_not_see_has_no_smallest_gpu(seen: Any) -> None:
    assert seen["smallest"] is None


@pytest.mark.parametrize(
    ("asked", "device"),
    [(None, "cuda:1"), ("cuda", "cuda:1"), ("cuda:0", "cuda:0"), ("cpu", "cpu")],
)
def test_a_pack_runs_where_it_was_asked_to_or_where_ray_put_it(
    asked: str | None, device: str
) -> None:
    assert on_device(PackOptions(asked), "cuda:1").device == device


@pytest.mark.parametrize(("asked", "device"), [(None, "cpu"), ("cuda:0", "cuda:0")])
def test_a_pack_that_was_given_no_gpu_takes_none_unasked(asked: str | None, device: str) -> None:
    assert on_device(PackOptions(asked), None).device == device
