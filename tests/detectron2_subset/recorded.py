"""Numbers of Detectron2, so that the subset is compared with it also where Detectron2 is not installed.

``python -m tests.detectron2_subset.recorded`` records those of the installed Detectron2; the stored ones are of version 0.6.
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.detectron2_subset.conftest import Backend

FILE = Path(__file__).parents[1] / "fixtures" / "detectron2_numbers.txt"
MODULES = ("data.test_mapper", "data.test_transforms", "modeling.tiny_detector", "solver.test_solver")
"""Each has a function ``measure`` from a backend and the name of a case to plain numbers, and the names in ``CASES``."""


def numbers_of_detectron2(module: str, case: str) -> Any:
    """Return what was recorded of a case. The file has a line for each: module, case, a tab, and JSON."""
    lines = dict(line.split("\t") for line in FILE.read_text().splitlines())
    return json.loads(lines[f"{module} {case}"])


def checksum(values: np.ndarray | torch.Tensor | list[float]) -> float:
    """Return a sum that depends on each value and on its position, to nine digits."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    return float(f"{flat @ (np.arange(flat.size) % 251 + 1):.9g}")


if __name__ == "__main__":
    lines = []
    for name in MODULES:
        module = import_module(f"tests.detectron2_subset.{name}")
        lines += [f"{name} {case}\t{json.dumps(module.measure(Backend('detectron2'), case))}" for case in module.CASES]
    FILE.write_text("\n".join(lines) + "\n")
