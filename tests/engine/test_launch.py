"""The launchers' environments are read correctly, and a job really starts under torchrun, under srun and as gloo processes."""

import argparse
import functools
import importlib
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from detcon_d2 import d2
from detcon_d2.engine.launch import _first_host, cluster_environment, launch
from tests import prepared
from tests.conftest import PATIENCE, REPO
from tests.detectors import arguments
from tests.engine.runs import output_of

# ``detcon_d2.engine.launch`` names the function, too.
launch_module = importlib.import_module("detcon_d2.engine.launch")

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
    # Data workers start alike, however the job was started.
    Path(args.folder, str(d2.comm.get_rank())).write_text(" ".join(map(str, [*place, multiprocessing.get_start_method()])))


def assert_two_processes_reported(folder: Path) -> None:
    method = multiprocessing.get_start_method()
    assert {rank: (folder / rank).read_text() for rank in "01"} == {"0": f"2 0 2 [0, 1] {method}", "1": f"2 1 2 [0, 1] {method}"}


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
    command = [job_script(tmp_path)]
    tasks = [prepared.PreparedTool(command, job_environment(SLURM_PROCID=rank, SLURM_LOCALID=rank, **step)) for rank in "01"]
    for task in tasks:
        output_of(task)
    assert_two_processes_reported(tmp_path)


def fail_on_one(args: argparse.Namespace) -> None:
    if d2.comm.get_rank() == 1:
        raise ValueError("the disk of process 1 is gone")
    threading.Event().wait(PATIENCE)


def test_a_process_that_fails_ends_the_others_and_its_error_is_the_last_line(monkeypatch, capfd):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(launch_module, "GRACE_SECONDS", 0.5)
    with pytest.raises(SystemExit) as stopped:
        prepared.launch(fail_on_one, arguments([], num_gpus=2))
    assert stopped.value.code == 1
    assert capfd.readouterr().err.rstrip().splitlines()[-1].endswith("process 1 failed: ValueError: the disk of process 1 is gone")


def explain_on_one(args: argparse.Namespace) -> None:
    if d2.comm.get_rank() == 1:
        if args.explanation is None:
            print("train_net.py: the reason", file=sys.stderr)
            raise SystemExit(2)
        raise SystemExit(args.explanation)
    logging.basicConfig()
    Waiting().train(0, 1)


class Waiting(d2.TrainerBase):
    """Waits for the other process."""

    def run_step(self) -> None:
        d2.comm.all_gather("a batch")


@pytest.mark.parametrize(("explanation", "code"), [("train_net.py: the reason", 1), (None, 2)])
def test_a_process_that_gives_a_reason_is_not_followed_by_tracebacks_of_those_that_wait_for_it(monkeypatch, capfd, explanation, code):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        launch(explain_on_one, arguments([], num_gpus=2, explanation=explanation))
    printed = capfd.readouterr().err
    assert stopped.value.code == code and printed.rstrip().endswith("train_net.py: the reason") and "Traceback" not in printed
    assert printed.count("the reason") == 1


def die(args: argparse.Namespace) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_is_reported(monkeypatch, capfd):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        prepared.launch(die, arguments([], num_gpus=2))
    assert stopped.value.code == 128 + signal.SIGKILL and "was ended by signal 9" in capfd.readouterr().err


@pytest.fixture
def fake_gpus(monkeypatch):
    """Two GPUs, of which nothing is used; the calls that would start a process group are returned."""
    calls = {}
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", lambda device: calls.update(device=device))
    monkeypatch.setattr(launch_module.dist, "init_process_group", lambda backend, **options: calls.update(backend=backend, **options))
    monkeypatch.setattr(launch_module.dist, "destroy_process_group", lambda: None)
    for name in ("create_local_process_group", "synchronize"):
        monkeypatch.setattr(d2.comm, name, lambda *_: None)
    return calls


@pytest.mark.parametrize(
    ("opts", "expected"),
    [
        (["MODEL.DEVICE", "cpu"], {"backend": "gloo"}),
        (["MODEL.DEVICE", "cuda"], {"backend": "nccl", "device": 1}),
        (["X", "1"], {"device": 1}),
    ],
)
def test_processes_talk_as_the_device_of_the_config_needs_it(fake_gpus, monkeypatch, opts, expected):
    """On a machine with GPUs, too."""
    for name, value in PROCESS.items():
        monkeypatch.setenv(name, value)
    launch(lambda args: None, arguments(opts))
    assert fake_gpus.items() >= expected.items() and ("device" in fake_gpus) == ("device" in expected)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"num_gpus": 3}, "--num-gpus is 3, but there are 2 GPUs here"),
        ({"num_machines": 2}, "--dist-url is auto; with several machines expected the address of machine 0"),
        ({"num_machines": 2, "opts": ["MODEL.DEVICE", "cpu"]}, "torchrun or srun"),
    ],
)
def test_processes_that_cannot_be_started_are_refused(fake_gpus, flags, message):
    with pytest.raises(ValueError, match=message):
        launch(report, arguments(**{"opts": []} | flags))


def test_nothing_of_the_process_group_is_kept_when_it_ends(monkeypatch):
    group = "_get_global_gloo_group" if d2.BACKEND == "detectron2" else "_gloo_group"
    cached = functools.lru_cache(object)
    monkeypatch.setattr(d2.comm, group, cached)
    monkeypatch.setattr(launch_module.dist, "destroy_process_group", lambda: None)
    before = cached()
    launch_module.leave_process_group()
    assert cached() is not before
