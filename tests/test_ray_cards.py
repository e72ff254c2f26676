"""The cards of a cluster of two nodes, each read on its own node, without a GPU: Ray believes the
numbers that it is told, and a stand-in of NVML tells each node other cards.

In a process of its own, which takes its Ray with it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pynvml
import pytest

STAND_IN = """
import importlib.util, os, sys
found = importlib.util.spec_from_file_location("pynvml", os.environ["REAL_NVML"])
real = importlib.util.module_from_spec(found)
sys.modules["pynvml"] = real
found.loader.exec_module(real)
from fake_nvml import FakeCard, fake_nvml
sys.modules["pynvml"] = fake_nvml([FakeCard(uuid) for uuid in os.environ["FAKE_CARDS"].split()])
"""

SCRIPT = """
import json, os, subprocess, sys, time
import ray
from ray.cluster_utils import Cluster
from phasegrid.run.executors.ray.cards import ClusterCards
from phasegrid.store.store import Store

def node(cards):
    return {"num_cpus": 1, "num_gpus": len(cards.split()), "object_store_memory": 80_000_000,
            "env_vars": {"FAKE_CARDS": cards}}

def seen():
    return sorted(card.uuid for node in cards.read() for card in node.cards)

cluster = Cluster(initialize_head=True, connect=False,
                  head_node_args={**node(""), "include_dashboard": False})
first, second = cluster.add_node(**node("GPU-b1 GPU-b2")), cluster.add_node(**node("GPU-c1"))
os.environ["FAKE_CARDS"] = "GPU-driver"  # read if the driver's node has GPUs
ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
here = ray.get_runtime_context().get_node_id()
cards = ClusterCards("run", answer_s=120)
others = [uuid for node, uuids in ((first, ["GPU-b1", "GPU-b2"]), (second, ["GPU-c1"]))
          if node.node_id != here for uuid in uuids]
own = ["GPU-driver"] if here in (first.node_id, second.node_id) else []
told = {"expected": sorted(own + others), "seen": seen()}
free, total = ray.available_resources(), ray.cluster_resources()
told["reserved"] = {name: total[name] - free.get(name, 0) for name in ("CPU", "GPU")}
told["torch"] = "torch" in sys.modules
folder = sys.argv[1]
run = [sys.executable, "-m", "phasegrid", "run", "tiny.yaml", "--storage", folder + "/store"]
said = subprocess.run([*run, "--address", cluster.address], cwd=folder, capture_output=True, text=True)
told["run"] = [said.returncode, said.stderr]
told["kept"] = Store.open(folder + "/store").notes.read_cards("tiny")
lost = second if second.node_id != here else first
cluster.remove_node(lost, allow_graceful=False)
cards.answer_s, ends = 0.5, time.monotonic() + 60
gone = {first.node_id: {"GPU-b1", "GPU-b2"}, second.node_id: {"GPU-c1"}}[lost.node_id]
while gone & set(after := seen()) and time.monotonic() < ends:
    pass
told["after"], told["left"] = after, sorted(set(told["expected"]) - gone)
ray.shutdown()
told["left_cluster"] = cards.read()
cluster.shutdown()
print(json.dumps(told))
"""


SWEEP = """
schema: 1
name: tiny
dataset: {name: digits}
model: {name: mlp, depth: 1}
train: {batch_size: 32, epochs: 200, stop: null}  # long enough for the nodes to answer
seeds: 1
resources: {num_gpus: 0}
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Any:
    pytest.importorskip("ray.cluster_utils")
    folder = tmp_path_factory.mktemp("nvml")
    (folder / "pynvml.py").write_text(STAND_IN)
    (folder / "tiny.yaml").write_text(SWEEP)
    tests = Path(__file__).resolve().parent
    paths = [str(folder), str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")]
    variables = {
        **{name: text for name, text in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"},
        "PYTHONPATH": os.pathsep.join(paths),
        "REAL_NVML": str(pynvml.__file__),
        "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_AUTH_MODE": "disabled",
    }
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    done = subprocess.run(
        command, env=variables, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_without_a_cluster_none_is_started_to_read_cards() -> None:
    code = "import ray; from phasegrid.run.executors.ray.cards import ClusterCards\n"
    code += "assert ClusterCards(None).read() is None; assert not ray.is_initialized()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.slow
def test_every_node_with_gpus_tells_its_own_cards(told: Any) -> None:
    assert told["seen"] == told["expected"]
    assert len(told["seen"]) >= 2


@pytest.mark.slow
def test_reading_cards_reserves_nothing_and_imports_no_torch(told: Any) -> None:
    assert told["reserved"] == {"CPU": 0, "GPU": 0}
    assert told["torch"] is False


@pytest.mark.slow
def test_a_run_keeps_the_cards_of_all_nodes(told: Any) -> None:
    code, said = told["run"]
    assert code == 0, said
    found = [card["uuid"] for node in told["kept"]["nodes"] for card in node["cards"]]
    assert sorted(found) == told["expected"]


@pytest.mark.slow
def test_the_cards_of_a_lost_node_are_forgotten(told: Any) -> None:
    assert told["after"] == told["left"]
    assert told["left_cluster"] is None
