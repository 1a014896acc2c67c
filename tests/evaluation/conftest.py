"""A finished quickstart, of which the pretraining run is used, and what frozen encoders need: a checkpoint and labelled images."""

from pathlib import Path

import numpy as np
import pytest

from tests.checkpoint.pretrained import write_pretrained
from tests.quickstart.conftest import quickstart

__all__ = ["quickstart"]


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DetCon_B, a narrow ResNet-50 whose online and averaged encoders differ."""
    return write_pretrained(tmp_path_factory.mktemp("pretrained") / "model_final.pth")


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    """CIFAR-10's binary files, with eight images per file."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for number, name in enumerate([*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]):
        records = np.random.default_rng(number).integers(0, 256, (8, 3073)).astype(np.uint8)
        records[:, 0] = (np.arange(8) + number) % 10
        records.tofile(folder / name)
    return folder
