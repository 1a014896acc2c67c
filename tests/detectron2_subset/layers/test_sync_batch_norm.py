"""NaiveSyncBatchNorm in two gloo processes gives the numbers of BatchNorm over the whole batch."""

import importlib
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from detcon_d2.engine.launch import leave_process_group
from tests.prepared import start_processes

# stats_mode, numbers of images of the two processes.
CASES = [("", (2, 2)), ("N", (3, 1)), ("N", (4, 0))]


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Return images, and the weights of a linear loss on the output."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 3, 5, 5, generator=generator) * 2 + 1, torch.randn(4, 3, 5, 5, generator=generator)


def run_process(rank: int, package: str, folder: str) -> None:
    """Run forward and backward of this process's share for every case, and write the results to a file."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    layer = importlib.import_module(f"{package}.layers").NaiveSyncBatchNorm
    images, weights = batch()
    results = []
    for mode, split in CASES:
        share = slice(0, split[0]) if rank == 0 else slice(split[0], 4)
        norm, x = layer(3, stats_mode=mode), images[share].clone().requires_grad_()
        out = norm(x)
        (out * weights[share]).sum().backward()
        results.append({"out": out.detach(), "grad": x.grad, "weight_grad": norm.weight.grad, "state": norm.state_dict()})
    torch.save(results, f"{folder}/{rank}.pt")
    leave_process_group()


@pytest.fixture
def results(backend, tmp_path: Path) -> list[list[dict]]:
    """The results of both processes, for each case."""
    package = backend.get().__name__
    start_processes(run_process, (package, str(tmp_path)), 2)
    return list(zip(*(torch.load(tmp_path / f"{rank}.pt") for rank in range(2))))


def test_two_processes_give_outputs_gradients_and_statistics_of_one(results):
    images, weights = batch()
    x, reference = images.clone().requires_grad_(), nn.BatchNorm2d(3)
    out = reference(x)
    (out * weights).sum().backward()
    variance = 0.9 + 0.1 * images.var(dim=(0, 2, 3), correction=0)
    for first, second in results:
        assert torch.allclose(torch.cat([first["out"], second["out"]]), out, atol=1e-5)
        assert torch.allclose(torch.cat([first["grad"], second["grad"]]), x.grad, atol=1e-5)
        assert torch.allclose(first["weight_grad"] + second["weight_grad"], reference.weight.grad, atol=1e-4)
        for one in (first, second):
            assert torch.allclose(one["state"]["running_mean"], reference.running_mean, atol=1e-6)
            assert torch.allclose(one["state"]["running_var"], variance, atol=1e-5)
