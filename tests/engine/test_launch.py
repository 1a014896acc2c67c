"""Launchers' environments are read right, and a job really starts under torchrun and on gloo processes."""

import argparse
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from detcon_d2.engine.launch import ClusterProcess, _first_host, cluster_process, launch
from tests.conftest import PATIENCE, REPO

SLURM = {
    "SLURM_PROCID": "9",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_JOB_ID": "1234567",
}
TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "1"}


def test_torchrun_environment():
    assert cluster_process(TORCHRUN) == ClusterProcess(5, 8, 1, 4, "env://")


def test_slurm_environment():
    assert cluster_process(SLURM) == ClusterProcess(9, 16, 1, 8, "tcp://gpu07:34567")
    assert cluster_process(SLURM | {"MASTER_ADDR": "head", "MASTER_PORT": "29400"}).init_method == "tcp://head:29400"


def test_plain_shells_and_batch_scripts_are_no_cluster_process():
    assert cluster_process({}) is None
    assert cluster_process({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}) is None
    assert cluster_process(SLURM | {"SLURM_STEP_NUM_TASKS": "1"}) is None


@pytest.mark.parametrize(
    ("nodelist", "host"),
    [("gpu[07-08]", "gpu07"), ("n1", "n1"), ("a3,b[1-2]", "a3"), ("node[03,07-09],x1", "node03"), ("rack1-n[5]-ib,c", "rack1-n5-ib")],
)
def test_first_host_of_a_nodelist(nodelist, host):
    assert _first_host(nodelist) == host


def report(args: argparse.Namespace) -> None:
    from detcon_d2 import d2

    path = os.path.join(args.folder, str(d2.comm.get_rank()))
    with open(path, "w") as file:
        file.write(
            f"{d2.comm.get_world_size()} {d2.comm.get_local_rank()} {d2.comm.get_local_size()} {d2.comm.all_gather(d2.comm.get_rank())}"
        )


def test_two_cpu_processes_form_one_world(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    launch(report, argparse.Namespace(num_gpus=2, num_machines=1, machine_rank=0, dist_url="auto", folder=str(tmp_path)))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"0": "2 0 2 [0, 1]", "1": "2 1 2 [0, 1]"}


def test_several_cpu_machines_need_a_launcher(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match="torchrun or srun"):
        launch(report, argparse.Namespace(num_gpus=2, num_machines=2, machine_rank=0, dist_url="auto"))


def job_script(tmp_path: Path) -> Path:
    script = tmp_path / "job.py"
    script.write_text(
        "import argparse\nfrom detcon_d2.engine import launch\nfrom tests.engine.test_launch import report\n"
        f"launch(report, argparse.Namespace(num_gpus=1, num_machines=1, machine_rank=0, dist_url='auto', folder={str(tmp_path)!r}))\n"
    )
    return script


def job_environment(**variables: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(REPO), *sys.path]), "CUDA_VISIBLE_DEVICES": ""} | variables


def test_torchrun_starts_the_job(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(job_script(tmp_path))]
    subprocess.run(command, env=job_environment(), check=True, capture_output=True)
    assert (tmp_path / "1").read_text() == "2 1 2 [0, 1]"


def test_sruns_environment_starts_the_job(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    script = str(job_script(tmp_path))
    tasks = [
        subprocess.Popen([sys.executable, script], env=job_environment(SLURM_PROCID=rank, SLURM_LOCALID=rank, **step)) for rank in "01"
    ]
    assert [task.wait(PATIENCE) for task in tasks] == [0, 0]
    assert (tmp_path / "1").read_text() == "2 1 2 [0, 1]"
