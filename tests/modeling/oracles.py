"""Reading the oracles' archives, and errors measured by norm."""

from pathlib import Path

import numpy as np
import torch


def relative_error(found: torch.Tensor | np.ndarray | float, expected: np.ndarray) -> float:
    """|found - expected| / |expected|, or |found| where expected is 0."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    scale = np.linalg.norm(expected)
    return float(np.linalg.norm(found - expected) / (scale if scale > 0 else 1.0))


def read_cases(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """``case/key`` entries of an archive as one dict a case."""
    cases: dict[str, dict[str, np.ndarray]] = {}
    with np.load(path) as archive:
        for key in archive.files:
            case, name = key.rsplit("/", 1)
            cases.setdefault(case, {})[name] = archive[key]
    return cases
