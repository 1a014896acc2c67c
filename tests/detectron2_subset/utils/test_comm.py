"""Communication in one process and between gloo processes, and launch."""

import json
import re

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from tests.detectron2_subset.utils.processes import join_and_report, report


def test_one_process_needs_no_group(backend):
    comm = backend.get("utils.comm")
    data = {"x": torch.tensor(2.0)}
    assert (comm.get_world_size(), comm.get_rank(), comm.get_local_rank(), comm.get_local_size()) == (1, 0, 0, 1)
    assert comm.is_main_process()
    assert comm.synchronize() is None
    assert comm.gather("a") == comm.all_gather("a") == ["a"]
    assert comm.reduce_dict(data) is data
    assert 0 <= comm.shared_random_seed() < 2**31
    with pytest.raises(AssertionError, match="launch"):
        comm.get_local_process_group()


def read(folder, world_size=2):
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world_size)]


def check_reports(reports):
    seeds = {r["seed"] for r in reports}
    assert seeds == {int(np.random.RandomState(0).randint(2**31))}, "the seed is drawn on rank 0"
    for rank, r in enumerate(reports):
        assert (r["world_size"], r["rank"], r["main"]) == (2, rank, rank == 0)
        assert r["all_gather"] == [{"rank": i, "list": [None, "x"] * i} for i in range(2)]
        assert r["gather"] == ([0, 11] if rank == 0 else [])
        assert r["gather_to_1"] == ([0, 1] if rank == 1 else [])
    assert reports[0]["reduced"] == {"True": {"a": 10.0, "b": 1.5}, "False": {"a": 20.0, "b": 3.0}}
    assert reports[0]["metrics"] == {
        "rank_data_time": 0.25,
        "data_time": 1.25,
        "total_loss": 6.5,
        "loss_a": 1.5,
        "loss_b": 5.0,
    }
    assert reports[1]["metrics"] == {"rank_data_time": 1.25}


@pytest.mark.parametrize("per_machine", [1, 2])
def test_two_processes_exchange_objects_and_tensors(backend, tmp_path, per_machine):
    mp.spawn(join_and_report, (backend, 2, per_machine, str(tmp_path)), nprocs=2)
    reports = read(tmp_path)
    check_reports(reports)
    for rank, r in enumerate(reports):
        assert (r["local_rank"], r["local_size"]) == ((rank, 2) if per_machine == 2 else (0, 1))
        assert r["local"] == ([0, 1] if per_machine == 2 else [rank])


@pytest.mark.skipif(torch.cuda.is_available(), reason="with CUDA launch uses NCCL and one GPU for each process")
def test_launch_starts_gloo_processes_without_cuda(subset, tmp_path):
    subset.get("engine").launch(report, 2, dist_url="auto", args=(subset, str(tmp_path)))
    reports = read(tmp_path)
    check_reports(reports)
    assert [r["local_rank"] for r in reports] == [0, 1]


def test_launch_runs_one_process_right_here(backend):
    calls = []
    backend.get("engine").launch(lambda *args: calls.append(args), 1, args=(1, "a"))
    assert calls == [(1, "a")]


def test_a_free_port_is_for_one_machine_only(subset):
    with pytest.raises(ValueError, match=re.escape("tcp://host:port")):
        subset.get("engine").launch(print, 2, num_machines=2, dist_url="auto")
