"""The loss over real gloo processes: oracles, and equality with one process that holds the whole batch."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from detcon_d2.losses import detcon_loss
from tests.modeling.oracles import read_cases, relative_error
from tests.modeling.processes import run_processes

NONE = 65535


class Siamese(nn.Module):
    """Two views through one layer, so that DistributedDataParallel sees one forward pass."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.layer = nn.Linear(6, 4, dtype=torch.float64)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)

    def forward(self, x1, x2):
        return self.layer(x1), self.layer(x2)


def run_case(case):
    """Loss and gradients of one case in this process; a case without targets is DetCon_S."""
    pred1, pred2 = (case[name].clone().requires_grad_() for name in ("pred1", "pred2"))
    target1, target2 = (case.get("target1", pred1), case.get("target2", pred2))
    loss = detcon_loss(pred1, pred2, target1, target2, case["ids1"], case["ids2"], local_negatives=case["local_negatives"])
    loss.backward()
    return {"loss": loss.detach(), "grad1": pred1.grad, "grad2": pred2.grad}


def run_model(model, case):
    """Parameter gradients of DetCon_S's loss."""
    z1, z2 = model(case["pred1"], case["pred2"])
    detcon_loss(z1, z2, z1, z2, case["ids1"], case["ids2"]).backward()
    return [parameter.grad for parameter in model.parameters()]


def job(rank, cases):
    """In each process: its share of every case, a model under DistributedDataParallel, and the error for unequal batches."""
    shares = {name: {key: x[rank] if torch.is_tensor(x) else x for key, x in case.items()} for name, case in cases.items()}
    found = {name: run_case(case) for name, case in shares.items()}
    found["ddp"] = run_model(DistributedDataParallel(Siamese()), shares["small S float64"])
    x, ids = torch.zeros(2 + rank, 3, 4), torch.zeros(2 + rank, 3, dtype=torch.int64)
    try:
        detcon_loss(x, x, x, x, ids, ids)
    except ValueError as error:
        found["unequal"] = str(error)
    return found


def oracle_case(case):
    """An oracle's case with all processes on the first axis, in float64."""
    arrays = {name: torch.tensor(case[name], dtype=torch.float64) for name in ("pred1", "pred2", "target1", "target2")}
    ids = {f"ids{view}": torch.tensor(case[f"pind{view}"]).long() for view in (1, 2)}
    assert float(case["temperature"]) == 0.1
    return arrays | ids | {"local_negatives": bool(case["local_negatives"])}


def random_case(processes, with_targets, local_negatives, dtype, d=6):
    """3 images per process, 5 regions per view, some rows without a region."""
    generator = torch.Generator().manual_seed(processes)
    names = ("pred1", "pred2", "target1", "target2") if with_targets else ("pred1", "pred2")
    case = {name: torch.randn(processes, 3, 5, d, generator=generator, dtype=dtype) for name in names}
    for name in ("ids1", "ids2"):
        case[name] = torch.randint(4, (processes, 3, 5), generator=generator)
        case[name][-1, 1, :2] = NONE
    return case | {"local_negatives": local_negatives}


def build_cases(processes, fixtures_dir):
    oracle = {2: "multi00", 4: "multi02"}[processes]
    cases = {"oracle": oracle_case(read_cases(fixtures_dir / "loss_small.npz")[oracle])}
    for variant, with_targets in (("B", True), ("S", False)):
        cases[f"{variant} float32"] = random_case(processes, with_targets, True, torch.float32)
        cases[f"{variant} own image removed"] = random_case(processes, with_targets, False, torch.float64)
    return cases | {"small S float64": random_case(processes, False, True, torch.float64)}


@pytest.fixture(scope="module", params=[2, 4])
def runs(request, fixtures_dir, tmp_path_factory):
    """(number of processes, cases, one result per process)."""
    cases = build_cases(request.param, fixtures_dir)
    return request.param, cases, run_processes(job, request.param, tmp_path_factory.mktemp("gloo"), cases)


def test_processes_equal_the_released_code(runs, fixtures_dir):
    processes, _, results = runs
    case = read_cases(fixtures_dir / "loss_small.npz")[{2: "multi00", 4: "multi02"}[processes]]
    losses, grads1 = (np.stack([result["oracle"][key] for result in results]) for key in ("loss", "grad1"))
    assert relative_error(losses, case["loss_f64pure"]) < 1e-9
    assert relative_error(losses.mean(), case["loss_global_f64pure"]) < 1e-9
    assert relative_error(grads1, case["g1_f64pure"]) < 1e-9


def test_processes_equal_the_full_oracle(runs, shared_dir):
    processes, cases, results = runs
    case = read_cases(shared_dir / "oracles" / "loss_multi_oracle.npz")[{2: "multi00", 4: "multi02"}[processes]]
    assert all(torch.equal(cases["oracle"][name], x) for name, x in oracle_case(case).items() if torch.is_tensor(x))
    for key, expected in (("loss", "loss_f64pure"), ("grad1", "g1_f64pure"), ("grad2", "g2_f64pure")):
        assert relative_error(np.stack([result["oracle"][key] for result in results]), case[expected]) < 1e-9
        # The released code's float32 run.
        assert relative_error(np.stack([result["oracle"][key] for result in results]), case[expected.replace("64pure", "32")]) < 1e-5


@pytest.mark.parametrize("name", ["oracle", "B float32", "B own image removed", "S float32", "S own image removed"])
def test_mean_over_processes_equals_one_process_with_the_whole_batch(runs, name):
    processes, cases, results = runs
    whole = run_case({key: x.flatten(0, 1) if torch.is_tensor(x) else x for key, x in cases[name].items()})
    losses = torch.stack([result[name]["loss"] for result in results])
    assert relative_error(losses.mean(), whole["loss"].numpy()) < 1e-6
    for key in ("grad1", "grad2"):
        # Averaging, as DistributedDataParallel does it, divides each process's gradient by their number.
        gradient = torch.cat([result[name][key] for result in results]) / processes
        assert relative_error(gradient, whole[key].numpy()) < 1e-6


def test_parameter_gradients_under_ddp_equal_one_process_with_the_whole_batch(runs):
    _, cases, results = runs
    whole = run_model(Siamese(), {key: x.flatten(0, 1) for key, x in cases["small S float64"].items() if torch.is_tensor(x)})
    for result in results:
        for found, expected in zip(result["ddp"], whole, strict=True):
            assert relative_error(found, expected.numpy()) < 1e-9


def test_unequal_batches_are_refused_in_every_process(runs):
    processes, _, results = runs
    for result in results:
        assert "rank 0: (2, 3, 4); rank 1: (3, 3, 4)" in result["unequal"]
        assert "same number of images" in result["unequal"]
    assert len(results) == processes
