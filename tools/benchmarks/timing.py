"""Alternated measurements, and the machine that they were made on."""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import torch

_PACKAGES = ("torch", "torchvision", "numpy", "opencv-python-headless", "pillow", "lightly")


def alternate(
    functions: dict[str, Callable[[], object]], rounds: int, warmup: int = 1, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Time functions in turns, so that all of them see the same machine; a round compares neighbours in time.

    Args:
        functions: what to measure, by name.
        rounds: calls of each that are measured; each round begins with another function.
        warmup: calls of each before.
        clock: seconds. ``time.process_time`` counts this process alone, which says more where others compete for the cores.

    Returns:
        Seconds of each call, by name, in the order of the rounds.
    """
    seconds = {name: [] for name in functions}
    names = list(functions)
    for index in range(-warmup, rounds):
        shift = index % len(names)
        for name in names[shift:] + names[:shift]:
            start = clock()
            functions[name]()
            elapsed = clock() - start
            if index >= 0:
                seconds[name].append(elapsed)
    return seconds


def median_ratio(a: list[float], b: list[float]) -> float:
    """Median over the rounds of a / b."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def synchronized(function: Callable[[], object], device: str) -> Callable[[], object]:
    """The function, until the device ("cpu" or "cuda") has done its work: calls on CUDA return before that."""
    if device == "cpu":
        return function

    def run() -> object:
        result = function()
        torch.cuda.synchronize()
        return result

    return run


def device_argument(text: str) -> str:
    """``--device`` of a tool: "cpu" or "cuda"; argparse prints what ArgumentTypeError says."""
    if text not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"found {text!r}; expected cpu or cuda")
    if text == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("PyTorch finds no CUDA device here; leave --device out to measure on the CPU")
    return text


def machine() -> dict:
    """Processor, cores, threads, load, GPU and versions of what computes."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
