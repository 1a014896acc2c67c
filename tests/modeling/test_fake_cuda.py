"""A training step on a CUDA device that PyTorch only pretends to have: tensors with shape and device, without data.

Where two devices meet it raises as the real one does, and so does whatever would make the host wait for a value that the device computes.
Backward passes of autograd need a driver; the loss computes its gradients forwards, so they are here, too.
"""

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from detcon_d2 import d2
from detcon_d2.data import loader
from detcon_d2.losses.tiles import default_tile
from detcon_d2.solver import LARS
from tests.methods.test_detcon import batch, build
from tests.methods.test_odin import build_kmeans, learn
from tests.views.test_photometric_device import drawn


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[nn.Module], None]]:
    """Moves a model to the device, within FakeTensorMode."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=2**37))
    kept = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    yield lambda model: model._apply(lambda t: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="cuda"))
    torch.__future__.set_overwrite_module_params_on_conversion(kept)


def autocast(dtype: torch.dtype | None) -> torch.autocast:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("is_available", "is_bf16_supported"):
            patch.setattr(torch.cuda, name, lambda *_: True)
        return torch.autocast("cuda", dtype=dtype, enabled=dtype is not None)


def as_loaded(records: list[dict]) -> list[dict]:
    """What the loader gives: on the CPU."""
    return tree_map_only(torch.Tensor, lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype), records)


def finish_on_the_device(records: list[dict], operators: str) -> None:
    for number, transform in enumerate(drawn(operators, 2 * len(records))):
        records[number // 2]["views"][number % 2]["photometric"] = transform


@pytest.mark.parametrize("amp_dtype", [torch.bfloat16, torch.float16, None])
@pytest.mark.parametrize("where", ["worker", "dm_pix", "torchvision"])
@pytest.mark.parametrize("architecture", ["DetConB", "DetConS"])
def test_a_step_mixes_no_devices_and_reads_nothing_back(pretend, architecture, where, amp_dtype):
    options = {"MODEL__META_ARCHITECTURE": architecture, "DETCON__LOG_PERIOD": 1000, "DETCON__PROBE__NUM_CLASSES": 2}
    options["DETCON__AUG__WHERE"] = "worker" if where == "worker" else "device"
    if where != "worker":
        # Where photometric operators run concerns no layer of the encoder: the shortest one, because every pretended operation takes time.
        options |= {"MODEL__RESNETS__DEPTH": 18, "MODEL__RESNETS__RES2_OUT_CHANNELS": 64}
    model, records = build(DETCON__PROBE__ENABLED=True, **options), batch(labels=True)
    if where != "worker":
        finish_on_the_device(records, where)
    with FakeTensorMode(), d2.EventStorage():
        pretend(model)
        with autocast(amp_dtype):
            losses = model(as_loaded(records))
            embeddings = model.embed(as_loaded(records))
            assert embeddings["online1"].dtype == (amp_dtype or torch.float32)
            model.criterion(embeddings)
        assert {name: (loss.device.type, loss.dtype) for name, loss in losses.items()} == dict.fromkeys(losses, ("cuda", torch.float32))
        assert losses.keys() == {"loss_detcon", "loss_probe"}
        trained = [p for p in model.parameters() if p.requires_grad]
        for parameter in trained:
            parameter.grad = torch.empty_like(parameter)
        LARS(trained, lr=0.1, weight_decay=1e-6).step()
        if architecture == "DetConB":
            model.update_target(0.99)


def test_learning_regions_mixes_no_devices_and_reads_nothing_back(pretend):
    model = build_kmeans()
    with FakeTensorMode(), torch.no_grad():
        pretend(model)
        regions = learn(model, torch.empty(3, 3, 128, 128, dtype=torch.uint8), torch.empty(3, 4))
        assert regions.shape == (3, 4, 4) and regions.device.type == "cuda"


@pytest.mark.parametrize(("memory", "rows"), [(2**37, 2**29 // (2 * 512 * 16 * 4)), (2**30, 2**26 // (2 * 512 * 16 * 4))])
def test_the_tiles_of_the_loss_follow_from_the_device_and_not_from_what_is_free_there(pretend, monkeypatch, memory, rows):
    """Otherwise a resumed run would add up in another order."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=memory))
    for name in ("mem_get_info", "memory_reserved", "memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda device, name=name: pytest.fail(f"asks for {name}"))
    with FakeTensorMode():
        assert default_tile(torch.empty(2, 512, 16, 256, device="cuda")) == (rows, 512)


def test_a_batch_crosses_to_the_device_as_the_tensors_that_the_loader_pinned(pretend):
    """One copy for each kind of tensor and view, of the memory that the loader has pinned; nothing is copied for each image."""
    model, records = build(DETCON__LOG_PERIOD=1000), batch(labels=True)
    for sample in records:
        sample.pop("index", None)
    with FakeTensorMode(), d2.EventStorage(), Copies() as copies:
        pretend(model)
        samples = loader._unpack(loader._pack(as_loaded(records)))
        pinned = {view[key].untyped_storage()._cdata for view in samples[0]["views"] for key in ("image", "cells", "draws")}
        copies.sources.clear()
        model(samples)
    labels = [source for source in copies.sources if source not in pinned]
    assert set(copies.sources) >= pinned and len(copies.sources) - len(labels) == len(pinned) and len(labels) <= 1


class Copies(TorchDispatchMode):
    """The storages that were copied to the device."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and args[0].device.type == "cpu" and result.device.type == "cuda":
            self.sources.append(args[0].untyped_storage()._cdata)
        return result


def test_what_reads_back_or_mixes_devices_would_be_seen(pretend):
    model, records = build(DETCON__LOG_PERIOD=1), batch()
    with FakeTensorMode(), d2.EventStorage():
        pretend(model)
        with pytest.raises(DataDependentOutputException):  # figures for the log are read back
            model(as_loaded(records))
        model.pixel_mean = model.pixel_mean.cpu()
        with pytest.raises(RuntimeError, match="device"):
            model(as_loaded(records))
