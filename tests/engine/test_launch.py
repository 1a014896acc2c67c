"""The launchers' environments are read correctly, and a job really starts under torchrun, under srun and as gloo processes."""

import argparse
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from detcon_d2 import d2
from detcon_d2.engine.launch import _first_host, cluster_environment, launch
from tests.conftest import PATIENCE, REPO
from tests.detectors import arguments

SLURM = {
    "SLURM_PROCID": "9",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_JOB_ID": "1234567",
}
PROCESS = {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8"}


def test_torchruns_environment():
    assert cluster_environment(PROCESS | {"MASTER_ADDR": "a", "PATH": "/bin"}) == PROCESS


def test_sruns_environment():
    assert cluster_environment(SLURM) == PROCESS | {"MASTER_ADDR": "gpu07", "MASTER_PORT": "34567"}
    head = {"MASTER_ADDR": "head", "MASTER_PORT": "29400"}
    assert cluster_environment(SLURM | head) == PROCESS | head


def test_plain_shells_and_batch_scripts_are_not_processes_of_a_job():
    assert cluster_environment({}) is None
    assert cluster_environment({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}) is None
    assert cluster_environment(SLURM | {"SLURM_STEP_NUM_TASKS": "1"}) is None


@pytest.mark.parametrize(
    ("nodelist", "host"),
    [("gpu[07-08]", "gpu07"), ("n1", "n1"), ("a3,b[1-2]", "a3"), ("node[03,07-09],x1", "node03"), ("rack1-n[5]-ib,c", "rack1-n5-ib")],
)
def test_first_host_of_a_nodelist(nodelist, host):
    assert _first_host(nodelist) == host


def report(args: argparse.Namespace) -> None:
    place = d2.comm.get_world_size(), d2.comm.get_local_rank(), d2.comm.get_local_size(), d2.comm.all_gather(d2.comm.get_rank())
    Path(args.folder, str(d2.comm.get_rank())).write_text(" ".join(map(str, place)))


def assert_two_processes_reported(folder: Path) -> None:
    assert {rank: (folder / rank).read_text() for rank in "01"} == {"0": "2 0 2 [0, 1]", "1": "2 1 2 [0, 1]"}


def test_two_cpu_processes_form_one_job(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    launch(report, arguments([], num_gpus=2, folder=str(tmp_path)))
    assert_two_processes_reported(tmp_path)


def test_several_cpu_machines_need_a_launcher(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match="torchrun or srun"):
        launch(report, arguments([], num_gpus=2, num_machines=2))


def job_script(tmp_path: Path) -> str:
    script = tmp_path / "job.py"
    script.write_text(
        "from detcon_d2.engine import launch\nfrom tests.engine.test_launch import arguments, report\n"
        f"launch(report, arguments([], folder={str(tmp_path)!r}))\n"
    )
    return str(script)


def job_environment(**variables: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(REPO), *sys.path]), "CUDA_VISIBLE_DEVICES": ""} | variables


def test_torchrun_starts_the_job(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", job_script(tmp_path)]
    subprocess.run(command, env=job_environment(), check=True, capture_output=True, timeout=PATIENCE)
    assert_two_processes_reported(tmp_path)


def test_sruns_environment_starts_the_job(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, job_script(tmp_path)]
    tasks = [subprocess.Popen(command, env=job_environment(SLURM_PROCID=rank, SLURM_LOCALID=rank, **step)) for rank in "01"]
    assert [task.wait(PATIENCE) for task in tasks] == [0, 0]
    assert_two_processes_reported(tmp_path)
