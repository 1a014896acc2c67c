"""Augmentations sample, transforms are deterministic: an Augmentation returns the Transform that it applied to its input."""

import inspect

import numpy as np
from fvcore.transforms.transform import Transform, TransformList


class AugInput:
    """The image that augmentations change: ``image`` (H, W[, C]), uint8 in 0..255 or floating point."""

    def __init__(self, image: np.ndarray) -> None:
        """AssertionError if ``image`` is not an array."""
        assert isinstance(image, np.ndarray), f"AugInput takes an image as a numpy array, found {type(image).__name__}."
        self.image = image


class Augmentation:
    """A random policy: :meth:`get_transform` samples a Transform for an image. Unlike Detectron2's, it gets the image only."""

    def get_transform(self, image: np.ndarray) -> Transform:
        """Sample a transform for ``image`` (H, W, ...); subclasses define it."""
        raise NotImplementedError

    def __call__(self, aug_input: AugInput) -> Transform:
        """Sample a transform, apply it to ``aug_input`` in place, and return it."""
        tfm = self.get_transform(aug_input.image)
        aug_input.image = tfm.apply_image(aug_input.image)
        return tfm

    def __repr__(self) -> str:
        """Return the call that creates the augmentation, without the arguments that have their default value."""
        defaults = {name: one.default for name, one in inspect.signature(type(self)).parameters.items()}
        given = [(name, value) for name, value in vars(self).items() if name not in defaults or value != defaults[name]]
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in given)})"


class AugmentationList:
    """Augmentations one after the other. Each gets the image that the one before it returned."""

    def __init__(self, augs: list[Augmentation]) -> None:
        """AssertionError if the list contains anything else."""
        assert all(isinstance(aug, Augmentation) for aug in augs), f"Not all are augmentations: {augs}."
        self.augs = list(augs)

    def __call__(self, aug_input: AugInput) -> TransformList:
        """Apply all augmentations in place, and return their transforms."""
        return TransformList([aug(aug_input) for aug in self.augs])
