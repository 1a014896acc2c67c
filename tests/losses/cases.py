"""Cases of the oracle of other methods, from the extract in the repository or from the whole file."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.modeling.oracles import relative_error

PRECISIONS = [(torch.float64, 1e-9), (torch.float32, 1e-5)]
# The extract is in the repository; tests of the whole file are skipped where ../shared is absent.
SOURCES = ["fixtures_dir", "shared_dir"]


class Case(dict):
    """name -> array of one case."""

    def tensor(self, name: str, dtype: torch.dtype | None = None, grad: bool = False) -> torch.Tensor:
        x = torch.tensor(self[name])
        return x.to(dtype if x.is_floating_point() else x.dtype).requires_grad_(grad)

    def part(self, prefix: str) -> "Case":
        """The entries under ``prefix/``."""
        return Case({name.removeprefix(f"{prefix}/"): x for name, x in self.items() if name.startswith(f"{prefix}/")})


def read_methods(path: Path) -> dict[str, dict[str, Case]]:
    """method -> case -> arrays of an archive."""
    methods: dict[str, dict[str, Case]] = {}
    with np.load(path) as archive:
        for key in archive.files:
            method, case, name = key.split("/", 2)
            methods.setdefault(method, {}).setdefault(case, Case())[name] = archive[key]
    return methods


def source_path(request: pytest.FixtureRequest, source: str) -> Path:
    """The archive of one of SOURCES; skips if it is the whole one and absent."""
    folder = request.getfixturevalue(source)
    return folder / "methods_small.npz" if source == "fixtures_dir" else folder / "oracles" / "methods_oracle.npz"


def assert_close(found: torch.Tensor, expected: np.ndarray, tolerance: float) -> None:
    """The error's norm is at most ``tolerance`` times the larger of the expected norm and 1."""
    error = np.linalg.norm(np.asarray(found.detach(), np.float64) - expected)
    assert tuple(found.shape) == expected.shape
    assert error <= tolerance * max(np.linalg.norm(expected), 1.0), relative_error(found.detach(), expected)
