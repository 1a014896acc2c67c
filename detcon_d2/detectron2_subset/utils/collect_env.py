"""Versions and devices, for the log."""

import importlib.metadata
import platform

import torch
from tabulate import tabulate


def collect_env_info() -> str:
    """Return a table of the platform, the versions of Python and of the packages, and the GPUs."""
    from .. import __path__, __version__

    wanted = {"numpy", "torch", "torchvision", "fvcore", "iopath", "pillow", "opencv-python", "opencv-python-headless", "pycocotools"}
    packages = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions() if d.metadata["Name"] in wanted}
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    rows = [("platform", platform.platform()), ("Python", platform.python_version())]
    rows += [("detectron2", f"bundled subset {__version__} @{__path__[0]}"), *sorted(packages.items())]
    return tabulate([*rows, ("CPU threads", torch.get_num_threads()), ("GPUs", ", ".join(gpus) or "none")])
