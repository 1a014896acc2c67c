"""Communication in one process and between gloo processes."""

import json

import numpy as np
import pytest
import torch

from tests.detectron2_subset.utils.processes import join_and_report
from tests.prepared import start_processes


def test_one_process_needs_no_group(backend):
    comm, data = backend.get("utils.comm"), {"x": torch.tensor(2.0)}
    assert (comm.get_world_size(), comm.get_rank(), comm.get_local_rank(), comm.get_local_size()) == (1, 0, 0, 1)
    assert comm.is_main_process() and comm.synchronize() is None and comm.reduce_dict(data) is data
    assert comm.gather("a") == comm.all_gather("a") == ["a"]
    assert 0 <= comm.shared_random_seed() < 2**31
    with pytest.raises(AssertionError, match=r"local_process_group|launch"):
        comm.get_local_process_group()


def check_reports(folder, per_machine):
    reports = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    assert {r["seed"] for r in reports} == {int(np.random.RandomState(0).randint(2**31))}, "the seed comes from rank 0"
    for rank, r in enumerate(reports):
        assert (r["world_size"], r["rank"], r["main"]) == (2, rank, rank == 0)
        assert (r["local_rank"], r["local_size"]) == ((rank, 2) if per_machine == 2 else (0, 1))
        assert r["local"] == ([0, 1] if per_machine == 2 else [rank])
        assert r["all_gather"] == [{"rank": i, "list": [None, "x"] * i} for i in range(2)]
        assert r["gather"] == ([0, 11] if rank == 0 else [])
        assert r["gather_to_1"] == ([0, 1] if rank == 1 else [])
    assert reports[0]["reduced"] == {"a": 10.0, "b": 1.5}


@pytest.mark.parametrize("per_machine", [1, 2])
def test_two_processes_exchange_objects_and_tensors(backend, tmp_path, per_machine):
    start_processes(join_and_report, (backend, 2, per_machine, str(tmp_path)), 2)
    check_reports(tmp_path, per_machine)
