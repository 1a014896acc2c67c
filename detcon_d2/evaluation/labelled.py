"""Images with one class each, from a data set spec or from CIFAR-10's published binary files."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from detcon_d2.io.annotated.kinds import absolute
from detcon_d2.io.images import read_image
from detcon_d2.io.references import Range, parse_image, read_range
from detcon_d2.io.specs import list_images

CIFAR = "cifar10:"
"""Prefix of a spec that names the folder of CIFAR-10's binary files."""
FORMS = (
    f"folder:/path of class folders, list:/path/list.txt with labels, tar:/path/*.tar with classes, or {CIFAR}/path/cifar-10-batches-bin"
)
"""The specs, for messages."""

_CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR_FILES = {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]}
_CIFAR_RECORD = 1 + 3 * 32 * 32


@dataclass(frozen=True)
class LabelledImages:
    """The images of a data set.

    Attributes:
        spec: where they are from.
        files: paths, references to images in a tar, or ranges of 3072 bytes in a file of CIFAR-10.
        names: the class of each image: its class folder, its number as text, or CIFAR-10's name.
    """

    spec: str
    files: Sequence[str | Range]
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.files)

    @property
    def classes(self) -> list[str]:
        """The names of all classes, sorted; numbers by their value."""
        names = set(self.names)
        return sorted(names, key=int if all(name.lstrip("-").isdecimal() for name in names) else None)

    def labels(self, classes: Sequence[str]) -> torch.Tensor:
        """The index in ``classes`` of each image's class: (N,) int64.

        Raises ValueError: a class that is not among them, with both lists.
        """
        ranks = {name: rank for rank, name in enumerate(classes)}
        if unknown := [name for name in self.classes if name not in ranks]:
            raise ValueError(
                f"{self.spec} has classes that the training images lack: {', '.join(unknown)}. Found {', '.join(self.classes)}; expected "
                f"some of {', '.join(classes)}. Give the same names to the class folders, or the same numbers to the labels, of both."
            )
        return torch.tensor([ranks[name] for name in self.names])

    def digest(self) -> str:
        """Hash of what the images are: the files in their order, with sizes and times of change. Raises OSError for a missing file."""
        digest, versions = hashlib.sha256(), {}
        for file in self.files:
            place = file if isinstance(file, Range) else parse_image(file)
            path = place.path if place else file
            if path not in versions:
                status = os.stat(path)
                versions[path] = status.st_size, status.st_mtime_ns
            digest.update(repr((file, versions[path])).encode("utf-8", "backslashreplace"))
        return digest.hexdigest()


def read_pixels(file: str | Range) -> np.ndarray:
    """One of :attr:`LabelledImages.files`: uint8 (H, W, 3) RGB. Raises ImageReadError, which names the file."""
    if not isinstance(file, Range):
        return read_image(file)
    return np.frombuffer(read_range(file), np.uint8).reshape(3, 32, 32).transpose(1, 2, 0)


def list_labelled(spec: str, split: str) -> LabelledImages:
    """The images of a data set whose images all have a class.

    Args:
        spec: one of :data:`FORMS`.
        split: "train" or "test", which of CIFAR-10's files are read.

    Raises ValueError: an unknown kind, missing or damaged files, or images without classes.
    """
    if spec.startswith(CIFAR):
        return _list_cifar(spec, split)
    records = list_images(spec)
    # The images of a data set have labels all or none.
    if "label" not in records[0]:
        raise ValueError(f"{spec} has images without classes, such as {records[0]['file_name']}; expected {FORMS}.")
    folders = spec.startswith("folder:")
    names = [record["key"].partition("/")[0] if folders else str(record["label"]) for record in records]
    return LabelledImages(spec, [record["file_name"] for record in records], names)


def _list_cifar(spec: str, split: str) -> LabelledImages:
    """Records of one byte, the label, and 3072 bytes, the red, green and blue planes (https://www.cs.toronto.edu/~kriz/cifar.html)."""
    paths = [absolute(spec.removeprefix(CIFAR)) / name for name in _CIFAR_FILES[split]]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise ValueError(f"{spec} has no {', '.join(missing)}; expected the folder cifar-10-batches-bin of CIFAR-10's binary version.")
    files, names = [], []
    for path in paths:
        content = np.fromfile(path, np.uint8)
        if len(content) == 0 or len(content) % _CIFAR_RECORD:
            raise ValueError(
                f"{path} has {len(content)} bytes; expected records of {_CIFAR_RECORD} bytes, of which the published file has 10000. "
                "It is damaged: download CIFAR-10's binary version again."
            )
        labels = content[::_CIFAR_RECORD]
        if labels.max() >= len(_CIFAR_CLASSES):
            raise ValueError(f"{path} has the label {labels.max()}; expected 0..9. Give the folder of CIFAR-10's binary version.")
        files += [Range(str(path), 1 + record * _CIFAR_RECORD, _CIFAR_RECORD - 1) for record in range(len(labels))]
        names += [_CIFAR_CLASSES[label] for label in labels]
    return LabelledImages(spec, files, names)
