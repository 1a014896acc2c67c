"""Time of a whole pretraining step: ours, in full precision, and beside what the matrix products of this machine allow."""

import gc
import statistics
from collections.abc import Callable
from typing import NamedTuple

import torch
from roofline import count_operators, roofline_seconds
from timing import alternate, median_ratio, synchronized
from torch.profiler import ProfilerActivity, profile

from detcon_d2 import d2
from detcon_d2.config import add_detcon_config
from detcon_d2.engine.allocator import keep_freed_memory
from detcon_d2.engine.setup import has_fast_bf16
from detcon_d2.engine.step import AMP_DTYPES, wrap_ddp
from detcon_d2.solver import build_detcon_optimizer

OURS, COMPILED, PLAIN = "ours", "ours, compiled", "plain fp32"
# Sides of square matrices among which the fastest product is sought, each as often as makes the operations of the largest once.
_PEAK_SIDES = (1024, 2048, 4096)
# Of the array whose copy measures the memory: more than caches hold.
_COPIED_BYTES = 2**29


class Problem(NamedTuple):
    """What is measured.

    Attributes:
        method: "DetConB" or "DetConS".
        depth: of the ResNet.
        images: of a batch.
        size: side of a view, pixels.
        device: "cpu" or "cuda".
        amp_dtype: of autocast: "bf16", "fp16" or "" for none.
    """

    method: str = "DetConB"
    depth: int = 50
    images: int = 16
    size: int = 224
    device: str = "cpu"
    amp_dtype: str = "bf16"


def usual_amp(device: str) -> str:
    """The ``amp_dtype`` that training would use on a device: bf16, but on a CPU without instructions for it none."""
    return "bf16" if device != "cpu" or has_fast_bf16() else ""


class Speed(NamedTuple):
    """What was measured.

    Attributes:
        seconds: of each step, by name (``OURS``, ``COMPILED``, ``PLAIN``).
        flops: floating-point operations of the convolutions and products of a step.
        nbytes: that the operators of a step have to read and write.
        peak: the fastest matrix product of this machine in the autocast's precision, measured in turns with the steps, operations/s.
        bandwidth: of a copy, measured likewise, bytes read and written/s.
        roofline: seconds of a step whose operators each run at ``peak`` or at ``bandwidth``, whichever binds them.
        peak_memory: largest memory of the device in our steps, bytes; None on a CPU.
    """

    seconds: dict[str, list[float]]
    flops: int
    nbytes: int
    peak: float
    bandwidth: float
    roofline: float
    peak_memory: int | None

    @property
    def share_of_peak(self) -> float:
        """Of our step, in [0, 1]."""
        return self.flops / statistics.median(self.seconds[OURS]) / self.peak

    @property
    def share_of_roofline(self) -> float:
        """``roofline`` over our step's time; above 1 is possible where a cache holds what passes between operators."""
        return self.roofline / statistics.median(self.seconds[OURS])

    def lines(self, images: int) -> list[str]:
        """The report, for people."""
        lines = []
        for name, seconds in self.seconds.items():
            ratio = f"   {median_ratio(self.seconds[PLAIN], seconds):.2f}x plain" if PLAIN in self.seconds else ""
            median = statistics.median(seconds)
            lines.append(
                f"{name:<12}{median:9.3f} s a step ({min(seconds):.3f} to {max(seconds):.3f}) {images / median:8.1f} images/s{ratio}"
            )
        lines.append(
            f"{self.flops / 1e12:.2f} TFLOP a step; fastest product {self.peak / 1e12:.2f} TFLOP/s: {100 * self.share_of_peak:.0f} % of it"
        )
        lines.append(
            f"{self.nbytes / 1e9:.1f} GB a step; copy {self.bandwidth / 1e9:.0f} GB/s; with every operator as fast as its product "
            f"or its memory {self.roofline:.3f} s, {100 * self.share_of_roofline:.0f} % of ours"
        )
        return lines + ([f"largest memory {self.peak_memory / 2**30:.2f} GiB"] if self.peak_memory is not None else [])


def measure_step(problem: Problem, rounds: int, plain: bool = True, compiled: bool = False) -> Speed:
    """Steps in turns with matrix products and a copy. A step: networks, loss, gradients, LARS, the target's update, on random images that
    lie on the device.

    Args:
        problem: what to measure.
        rounds: steps of each that are measured.
        plain: also the same step in float32 with PyTorch's default memory format.
        compiled: also our step with the encoders compiled by inductor, which takes minutes before the first step.
    """
    steps = {OURS: build_step(problem)}
    if compiled:
        steps[COMPILED] = build_step(problem, compiler="inductor")
    if plain:
        steps[PLAIN] = build_step(problem._replace(amp_dtype=""), channels_last=False)
    operators = count_operators(steps[OURS])
    peak_memory = None
    if problem.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        steps[OURS]()
        peak_memory = torch.cuda.max_memory_allocated()
    products = _products(problem)
    seconds = alternate(steps | products | {"copy": _copy(problem.device)}, rounds)
    peak = 2 * max(_PEAK_SIDES) ** 3 / min(statistics.median(seconds.pop(name)) for name in products)
    bandwidth = 2 * _COPIED_BYTES / statistics.median(seconds.pop("copy"))
    return Speed(
        seconds,
        flops=sum(operator.flops for operator in operators),
        nbytes=sum(operator.nbytes for operator in operators),
        peak=peak,
        bandwidth=bandwidth,
        roofline=roofline_seconds(operators, peak, bandwidth),
        peak_memory=peak_memory,
    )


def build_step(problem: Problem, channels_last: bool = True, seed: int = 0, compiler: str = "") -> Callable[[], float]:
    """A function that makes one optimizer step and waits for it; with torch.distributed initialised, one process's share of it.

    On a CPU this process keeps its freed memory from here on, as in training, for whatever it measures.
    """
    if problem.device == "cpu":
        keep_freed_memory()
    torch.manual_seed(seed)
    cfg = _config(problem, channels_last)
    network = d2.build_model(cfg)
    network.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format).train()
    model = wrap_ddp(network)
    if compiler:
        network.compile_encoders(compiler)
    optimizer, batch, storage = build_detcon_optimizer(cfg, network), _batch(problem, network), d2.EventStorage()
    dtype = AMP_DTYPES.get(problem.amp_dtype)

    def step() -> float:
        with storage, torch.autocast(problem.device, dtype=dtype, enabled=dtype is not None):
            loss = model(batch)["loss_detcon"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if hasattr(network, "update_target"):
            network.update_target(0.99)
        return loss.item()

    return step


def profile_step(problem: Problem, steps: int = 3) -> dict[str, float]:
    """Which part of our step each operator takes, largest first: of the device's time on CUDA, of the processor's elsewhere.

    Args:
        problem: what to measure.
        steps: that are recorded, after a first one that is not.
    """
    step = build_step(problem)
    step()
    cuda = problem.device == "cuda"
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    with profile(activities=kinds) as recorded:
        for _ in range(steps):
            step()
    times = {event.key: event.self_device_time_total if cuda else event.self_cpu_time_total for event in recorded.key_averages()}
    total = sum(times.values())
    return {key: time / total for key, time in sorted(times.items(), key=lambda item: -item[1])}


def largest_batch(problem: Problem) -> int:
    """Images of the largest batch among ``problem.images`` and its doubles whose step fits the GPU's memory.

    Raises:
        torch.cuda.OutOfMemoryError: ``problem.images`` is too large already.
    """
    images = problem.images
    build_step(problem)()
    while True:
        gc.collect()
        torch.cuda.empty_cache()
        try:
            build_step(problem._replace(images=2 * images))()
        except torch.cuda.OutOfMemoryError:
            return images
        images *= 2


def _products(problem: Problem) -> dict[str, Callable[[], object]]:
    """Square matrix products on the device, in the autocast's precision, each function of the same number of operations."""
    dtype = AMP_DTYPES.get(problem.amp_dtype, torch.float32)

    def repeat(side: int) -> Callable[[], object]:
        a, b = (torch.randn(side, side, device=problem.device).to(dtype) for _ in range(2))

        def run() -> None:
            for _ in range((max(_PEAK_SIDES) // side) ** 3):
                a @ b

        return synchronized(run, problem.device)

    return {f"product of {side}": repeat(side) for side in _PEAK_SIDES}


def _copy(device: str) -> Callable[[], object]:
    source = torch.zeros(_COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return synchronized(lambda: target.copy_(source), device)


def _config(problem: Problem, channels_last: bool) -> "d2.CfgNode":
    cfg = d2.get_cfg()
    add_detcon_config(cfg)
    thin = {} if problem.depth >= 50 else {"MODEL.RESNETS.RES2_OUT_CHANNELS": 64}
    norm = "SyncBN" if d2.comm.get_world_size() > 1 and problem.device == "cuda" else "BN"
    values = {
        "MODEL.META_ARCHITECTURE": problem.method,
        "MODEL.DEVICE": problem.device,
        "MODEL.BACKBONE.NAME": "build_detcon_resnet_backbone",
        "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.RESNETS.DEPTH": problem.depth,
        "MODEL.RESNETS.OUT_FEATURES": ["res5"],
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "MODEL.RESNETS.NORM": norm,
        "DETCON.HEAD_NORM": norm,
        "DETCON.PROBE.ENABLED": False,
        "DETCON.CHANNELS_LAST": channels_last,
        "DETCON.LOG_PERIOD": 1_000_000,
    } | thin
    cfg.merge_from_list([item for pair in values.items() for item in pair])
    return cfg


def _batch(problem: Problem, network: torch.nn.Module) -> list[dict]:
    """Random images with four regions each."""
    cells = -(-problem.size // network.encoder.output_shape()[network.in_feature].stride)

    def view() -> dict:
        return {
            "image": torch.randint(256, (3, problem.size, problem.size), dtype=torch.uint8).to(problem.device),
            "cells": torch.randint(4, (cells, cells)).to(problem.device),
            "draws": torch.rand(network.num_samples).to(problem.device),
        }

    return [{"views": [view(), view()]} for _ in range(problem.images)]
