"""The machine that a benchmark runs on."""

import argparse
import os
import platform
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path

import torch

_PACKAGES = ("torch", "torchvision", "numpy", "opencv-python-headless", "pillow", "lightly")


def describe_machine() -> dict:
    """Processor, cores, threads, load, GPU and versions of the packages that compute."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {package.name: package.version for package in distributions() if package.name in _PACKAGES},
    }


def device_argument(text: str) -> str:
    """Type of ``--device`` for argparse: "cpu" or "cuda"."""
    if text not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"found {text!r}; expected cpu or cuda")
    if text == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("PyTorch finds no CUDA device here; leave --device out to measure on the CPU")
    return text


def wait_function(device: str) -> Callable[[], object]:
    """A function that returns when a device ("cpu" or "cuda") has finished its work, for :func:`timing.alternate`."""
    return torch.cuda.synchronize if device == "cuda" else lambda: None


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
