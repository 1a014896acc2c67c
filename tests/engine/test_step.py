"""One step: the host waits for the device once, and DistributedDataParallel leaves samples to the model."""

from unittest.mock import Mock

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from detcon_d2 import d2
from detcon_d2.engine import step
from tests.conftest import tiny_opts
from tests.engine.runs import pretrainer


class Reads(TorchDispatchMode):
    """Counts the values that the host reads from a tensor one by one: each would wait for the device."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("amp", [False, True])
def test_a_step_reads_its_decisions_and_losses_at_once(photos, tmp_path, monkeypatch, amp):
    monkeypatch.setattr("detcon_d2.engine.setup.has_fast_bf16", lambda: True)
    trainer = pretrainer(tiny_opts(photos, tmp_path, SOLVER__AMP__ENABLED=amp, DETCON__LOG_PERIOD=1000))
    lists = []
    tolist = torch.Tensor.tolist
    trainer.batches = iter([trainer_batch(trainer)])
    trainer.optimizer.step = lambda *_: None
    # The model on the CPU reads the rows that have a loss; on a GPU it does not (tests/modeling/test_fake_cuda.py).
    losses, backward = {}, None
    with d2.EventStorage() as trainer.storage:
        losses, backward = trainer.compute_losses(next(trainer.batches))
        trainer.batches = iter([[]])
        monkeypatch.setattr(trainer, "compute_losses", lambda batch: (losses, backward))
        monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: lists.append(tensor) or tolist(tensor))
        with Reads() as reads:
            trainer.run_step()
        assert reads.count == 0 and len(lists) == 1
        assert trainer.storage.latest()["total_loss"][0] == pytest.approx(sum(loss.item() for loss in losses.values()))


def trainer_batch(trainer) -> list[dict]:
    from detcon_d2.data import build_pretraining_loader

    return next(iter(build_pretraining_loader(trainer.cfg, trainer.records, trainer.network.sample_maker(trainer.cfg))))


def test_samples_are_not_copied_one_by_one_before_the_model_gets_them(monkeypatch):
    monkeypatch.setattr(d2.comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(step, "DistributedDataParallel", wrapper := Mock(wraps=None))
    monkeypatch.setattr(step.inspect, "signature", lambda _: Mock(parameters={"broadcast_buffers": None}))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    model = nn.Linear(1, 1)
    monkeypatch.setattr(nn.Module, "parameters", lambda _: iter([Mock(is_cuda=True)]))
    step.wrap_ddp(model)
    assert wrapper.call_args.kwargs.get("device_ids") is None
