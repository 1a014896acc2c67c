#!/usr/bin/env python
"""Speed of a whole pretraining step, compared with plain float32 and with what the fastest matrix product and the memory allow."""

import argparse
import gc
import os
import statistics
from collections.abc import Callable
from typing import NamedTuple

import torch
from machine import describe_machine, device_argument, wait_function
from roofline import bandwidth_of, copy_function, count_operators, peak_of, product_functions, roofline_seconds
from timing import OURS, alternate, benchmark_parser, median_ratio, write_json
from torch.profiler import ProfilerActivity, profile

from detcon_d2 import d2
from detcon_d2.config import add_detcon_config
from detcon_d2.engine.allocator import keep_freed_memory
from detcon_d2.engine.setup import has_fast_bf16
from detcon_d2.engine.step import AMP_DTYPES, wrap_ddp
from detcon_d2.solver import build_detcon_optimizer

COMPILED, PLAIN = "ours, compiled", "plain fp32"
_SAMPLES = 16
_EPILOG = """
examples
  python tools/benchmarks/step.py                                             # DetCon_B, ResNet-50, 224 px, batch 16, all cores
  python tools/benchmarks/step.py --depth 18 --size 97 --images 64 --threads 1   # the step of the quickstart
  python tools/benchmarks/step.py --device cuda --images 256 --no-plain --rounds 20
  python tools/benchmarks/step.py --device cuda --images 64 --largest
"""


class StepProblem(NamedTuple):
    """What is measured.

    Attributes:
        method: "DetConB" or "DetConS".
        depth: depth of the ResNet.
        images: images per process.
        size: side of a view in pixels.
        device: "cpu" or "cuda".
        amp_dtype: precision of autocast, "bf16" or "fp16"; "" for none.
    """

    method: str = "DetConB"
    depth: int = 50
    images: int = 16
    size: int = 224
    device: str = "cpu"
    amp_dtype: str = "bf16"


def usual_amp(device: str) -> str:
    """The ``amp_dtype`` that training uses on a device: bf16, or none on a CPU without instructions for it."""
    return "bf16" if device != "cpu" or has_fast_bf16() else ""


def measure_step(problem: StepProblem, rounds: int, plain: bool = True, compiled: bool = False) -> dict:
    """Alternate steps with matrix products and a copy. A step is networks, loss, gradients, LARS and the update of the target, on random
    images in the device's memory.

    Args:
        problem: what to measure.
        rounds: measured steps of each kind.
        plain: also measure the step in float32 with PyTorch's default memory format.
        compiled: also measure our step with encoders compiled by inductor, which takes minutes before the first step.

    Returns:
        As plain values:

        - seconds: times of each step by name (``OURS``, ``COMPILED``, ``PLAIN``).
        - flops: floating-point operations of the convolutions and products of one step.
        - nbytes: bytes that the operators of one step have to read and write.
        - peak: operations/s of this machine's fastest matrix product in the precision of autocast.
        - bandwidth: bytes/s that a copy reads and writes.
        - roofline: seconds of a step in which each operator runs at ``peak`` or at ``bandwidth``, whichever limits it.
        - peak_memory: largest device memory of our step in bytes; None on a CPU.
        - share_of_peak: operations/s of our step over ``peak``, in [0, 1].
        - share_of_roofline: ``roofline`` over the time of our step; above 1 if a cache holds what one operator passes to the next.
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
    products = product_functions(problem.device, AMP_DTYPES.get(problem.amp_dtype, torch.float32))
    seconds = alternate(steps | products | {"copy": copy_function(problem.device)}, rounds, wait=wait_function(problem.device))
    peak = peak_of([seconds.pop(name) for name in products])
    bandwidth = bandwidth_of(seconds.pop("copy"))
    flops, nbytes = (sum(column) for column in zip(*((operator.flops, operator.nbytes) for operator in operators)))
    roofline, median = roofline_seconds(operators, peak, bandwidth), statistics.median(seconds[OURS])
    result = {"seconds": seconds, "flops": flops, "nbytes": nbytes, "peak": peak, "bandwidth": bandwidth, "roofline": roofline}
    return result | {"peak_memory": peak_memory, "share_of_peak": flops / median / peak, "share_of_roofline": roofline / median}


def describe_step(result: dict, images: int) -> list[str]:
    """The result of :func:`measure_step` with a batch of ``images`` as text."""
    lines = []
    for name, seconds in result["seconds"].items():
        median, spread = statistics.median(seconds), f"({min(seconds):.3f} to {max(seconds):.3f})"
        ratio = f"   {median_ratio(result['seconds'][PLAIN], seconds):.2f}x plain" if PLAIN in result["seconds"] else ""
        lines.append(f"{name:<14}{median:9.3f} s per step {spread} {images / median:8.1f} images/s{ratio}")
    lines.append(
        f"{result['flops'] / 1e12:.2f} TFLOP per step; our step runs at {100 * result['share_of_peak']:.0f} % of the fastest product, "
        f"which makes {result['peak'] / 1e12:.2f} TFLOP/s"
    )
    lines.append(
        f"{result['nbytes'] / 1e9:.1f} GB per step; a copy makes {result['bandwidth'] / 1e9:.0f} GB/s; with every operator as fast as its "
        f"product or its memory, a step takes {result['roofline']:.3f} s, {100 * result['share_of_roofline']:.0f} % of ours"
    )
    return lines + ([f"peak memory {result['peak_memory'] / 2**30:.2f} GiB"] if result["peak_memory"] is not None else [])


def build_step(problem: StepProblem, channels_last: bool = True, compiler: str = "") -> Callable[[], float]:
    """A function that makes one optimizer step, waits for it and returns the loss; in a group of processes, one process's share of it.

    On a CPU this process keeps its freed memory from here on, as in training, also for the other things that it measures.
    """
    if problem.device == "cpu":
        keep_freed_memory()
    torch.manual_seed(0)
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
        network.update_target(0.99)
        return loss.item()

    return step


def profile_step(problem: StepProblem, steps: int = 3) -> dict[str, float]:
    """Share of each operator in the time of our step (the device's time on CUDA, otherwise the processor's), largest first.

    Args:
        problem: what to measure.
        steps: recorded steps, after one that is not recorded.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise the profiler reports that there is no GPU as an error
    step, cuda = build_step(problem), problem.device == "cuda"
    step()
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda) as recorded:
        for _ in range(steps):
            step()
    times = {event.key: event.self_device_time_total if cuda else event.self_cpu_time_total for event in recorded.key_averages()}
    total = sum(times.values())
    return {key: time / total for key, time in sorted(times.items(), key=lambda item: -item[1])}


def largest_batch(problem: StepProblem) -> int:
    """Double the batch, beginning with ``problem.images``, while a step fits the GPU's memory; returns the last one that fits.

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


def _config(problem: StepProblem, channels_last: bool) -> "d2.CfgNode":
    cfg = d2.get_cfg()
    add_detcon_config(cfg)
    norm = "SyncBN" if d2.comm.get_world_size() > 1 and problem.device == "cuda" else "BN"
    values = {
        "MODEL.META_ARCHITECTURE": problem.method,
        "MODEL.DEVICE": problem.device,
        "MODEL.BACKBONE.NAME": "build_detcon_resnet_backbone",
        "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.RESNETS.DEPTH": problem.depth,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 256 if problem.depth >= 50 else 64,
        "MODEL.RESNETS.OUT_FEATURES": ["res5"],
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "MODEL.RESNETS.NORM": norm,
        "DETCON.HEAD_NORM": norm,
        "DETCON.PROBE.ENABLED": False,
        "DETCON.CHANNELS_LAST": channels_last,
        "DETCON.LOG_PERIOD": 1_000_000,
    }
    cfg.merge_from_list([item for pair in values.items() for item in pair])
    return cfg


def _batch(problem: StepProblem, network: torch.nn.Module) -> list[dict]:
    """Random images with four regions each."""
    cells = -(-problem.size // network.stride)

    def view() -> dict:
        return {
            "image": torch.randint(256, (3, problem.size, problem.size), dtype=torch.uint8).to(problem.device),
            "cells": torch.randint(4, (cells, cells)).to(problem.device),
            "draws": torch.rand(_SAMPLES).to(problem.device),
        }

    return [{"views": [view(), view()]} for _ in range(problem.images)]


def add_step_arguments(parser: argparse.ArgumentParser, default: StepProblem) -> None:
    """The options that define a step, except its precision."""
    parser.add_argument("--method", choices=("DetConB", "DetConS"), default=default.method, help="default: %(default)s")
    parser.add_argument("--depth", type=int, default=default.depth, help="depth of the ResNet (default: %(default)s)")
    parser.add_argument("--images", type=int, default=default.images, help="images per process (default: %(default)s)")
    parser.add_argument("--size", type=int, default=default.size, help="side of a view in pixels (default: %(default)s)")
    parser.add_argument("--device", type=device_argument, default=default.device, help="cpu or cuda (default: %(default)s)")


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = benchmark_parser(__doc__, _EPILOG, rounds=5)
    add_step_arguments(parser, StepProblem())
    parser.add_argument("--amp", choices=("bf16", "fp16", "off"), help="autocast (default: bf16; off on a CPU without bf16)")
    parser.add_argument("--no-plain", action="store_true", help="do not measure plain float32")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile (DETCON.COMPILE inductor)")
    parser.add_argument("--profile", type=int, metavar="N", help="also print the N operators that take most of the step")
    parser.add_argument("--largest", action="store_true", help="instead, double the batch while it fits the GPU's memory")
    parser.add_argument("--threads", type=int, help="threads of PyTorch (default: all cores)")
    args = parser.parse_args()
    if args.largest and args.device == "cpu":
        parser.error("--largest needs --device cuda: a CPU's memory has no such limit")
    return args


def main() -> None:
    """Measure and print; see ``--help``."""
    args = parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    amp = usual_amp(args.device) if args.amp is None else args.amp.replace("off", "")
    problem = StepProblem(args.method, args.depth, args.images, args.size, args.device, amp)
    if args.largest:
        print(f"largest batch that fits: {largest_batch(problem)} (twice as many images do not fit)")
        return
    result = measure_step(problem, args.rounds, plain=not args.no_plain, compiled=args.compile)
    print(*describe_step(result, problem.images), sep="\n")
    operators = profile_step(problem) if args.profile else {}
    for name, share in list(operators.items())[: args.profile]:
        print(f"{100 * share:6.1f} %  {name}")
    if args.json:
        about = {"machine": describe_machine(), "problem": problem._asdict(), "operators": operators}
        write_json(args.json, about | result)


if __name__ == "__main__":
    main()
