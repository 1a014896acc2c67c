"""Versions and devices, for the log."""

import contextlib
import importlib.metadata
import platform

import torch
from tabulate import tabulate


def collect_env_info() -> str:
    """Return a table of the platform, the versions of Python and of the packages, and the GPUs."""
    from .. import __path__, __version__

    packages = {}
    for name in ("fvcore", "iopath", "numpy", "opencv-python", "opencv-python-headless", "pillow", "pycocotools", "torch", "torchvision"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            packages[name] = importlib.metadata.version(name)
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    rows = [("platform", platform.platform()), ("Python", platform.python_version())]
    rows += [("detectron2", f"bundled subset {__version__} @{__path__[0]}"), *packages.items()]
    return tabulate([*rows, ("CPU threads", torch.get_num_threads()), ("GPUs", ", ".join(gpus) or "none")])
