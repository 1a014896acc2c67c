"""Augmentations draw, transforms are fixed: an Augmentation looks at an input and returns the Transform that was applied to it."""

import inspect
from typing import Any

import numpy as np
from fvcore.transforms.transform import Transform, TransformList


class AugInput:
    """What is transformed together: ``image`` (H, W[, C]), ``boxes`` (N, 4) xyxy or None, ``sem_seg`` (H, W) or None."""

    def __init__(self, image: np.ndarray, *, boxes: np.ndarray | None = None, sem_seg: np.ndarray | None = None) -> None:
        """``image``: uint8 in 0-255 or floating point. AssertionError if it is no array."""
        assert isinstance(image, np.ndarray), f"AugInput takes an image as a numpy array, found {type(image).__name__}."
        self.image, self.boxes, self.sem_seg = image, boxes, sem_seg

    def transform(self, tfm: Transform) -> None:
        """Replace every attribute by the transformed one."""
        self.image = tfm.apply_image(self.image)
        self.boxes = None if self.boxes is None else tfm.apply_box(self.boxes)
        self.sem_seg = None if self.sem_seg is None else tfm.apply_segmentation(self.sem_seg)


class Augmentation:
    """A policy: :meth:`get_transform` takes attributes of the input, by the names of its parameters, and returns a Transform."""

    def get_transform(self, *args: Any) -> Transform:
        """Decide. Subclasses name the inputs they need: ``get_transform(self, image, sem_seg)``."""
        raise NotImplementedError

    def __call__(self, aug_input: AugInput) -> Transform:
        """Decide, transform ``aug_input`` in place, return the transform. AttributeError if the input lacks something."""
        names = list(inspect.signature(self.get_transform).parameters)
        missing = [name for name in names if not hasattr(aug_input, name)]
        if missing:
            raise AttributeError(f"{type(self).__name__}.get_transform needs {missing} of its input, a {type(aug_input).__name__}.")
        tfm = self.get_transform(*(getattr(aug_input, name) for name in names))
        aug_input.transform(tfm)
        return tfm

    def __repr__(self) -> str:
        """The call that makes it, without arguments that have their default."""
        defaults = {name: one.default for name, one in inspect.signature(type(self)).parameters.items()}
        given = [(name, value) for name, value in vars(self).items() if name not in defaults or value != defaults[name]]
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in given)})"


class AugmentationList(Augmentation):
    """Augmentations (and transforms) one after the other, each deciding on what the one before it made."""

    def __init__(self, augs: list[Augmentation | Transform]) -> None:
        """AssertionError for anything else in the list."""
        assert all(isinstance(aug, Augmentation | Transform) for aug in augs), f"Not all are augmentations or transforms: {augs}."
        self.augs = list(augs)

    def __call__(self, aug_input: AugInput) -> TransformList:
        """Apply all in place; returns the transforms."""
        return TransformList([_apply(aug, aug_input) for aug in self.augs])

    def __repr__(self) -> str:
        return f"AugmentationList{self.augs}"


def _apply(aug: Augmentation | Transform, aug_input: AugInput) -> Transform:
    if isinstance(aug, Augmentation):
        return aug(aug_input)
    aug_input.transform(aug)
    return aug
