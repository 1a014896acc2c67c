"""Photometric augmentation of a view: random numbers are sampled first, the transform is deterministic (method.md, "Augmentation")."""

from dataclasses import dataclass

import numpy as np
from fvcore.common.config import CfgNode

from detcon_d2.views import color

JITTER_OPERATORS = {
    "dm_pix": (color.add_brightness, color.scale_contrast_per_channel, color.scale_hsv_saturation, color.shift_hue),
    "torchvision": (color.scale_brightness, color.blend_contrast, color.blend_saturation, color.shift_hue),
}
"""DETCON.AUG.OPERATORS -> brightness, contrast, saturation, hue."""
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
"""Indices into the values of :data:`JITTER_OPERATORS`."""


@dataclass(frozen=True)
class PhotometricTransform:
    """Fixed photometric changes, in the order jitter, grey, blur, solarize.

    Attributes:
        operators: a key of :data:`JITTER_OPERATORS`.
        jitter: (operator, amount) pairs in order of application; operator 0 brightness, 1 contrast, 2 saturation, 3 hue.
        gray: to grey.
        blur_sigma: in pixels; None: no blur.
        blur_kernel: kernel length as a fraction of the image's width.
        solarize_threshold: in [0, 1]; None: not solarized.
    """

    operators: str = "dm_pix"
    jitter: tuple[tuple[int, float], ...] = ()
    gray: bool = False
    blur_sigma: float | None = None
    blur_kernel: float = 0.1
    solarize_threshold: float | None = None

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        """float32 (H, W, 3), RGB in [0, 1], to the same; clipped after each operator of the jitter."""
        for operator, amount in self.jitter:
            image = JITTER_OPERATORS[self.operators][operator](image, amount).clip(0, 1)
        if self.gray:
            image = color.to_gray(image)
        if self.blur_sigma is not None:
            image = color.gaussian_blur(image, color.blur_radius(self.blur_kernel, image.shape[1]), self.blur_sigma)
        if self.solarize_threshold is not None:
            image = color.solarize(image, self.solarize_threshold)
        return image.clip(0, 1)


@dataclass(frozen=True)
class PhotometricAugmentation:
    """Samples the :class:`PhotometricTransform` of one view; the two views of DetCon_B have one each.

    Values outside these ranges raise a ValueError.

    Attributes:
        operators: a key of :data:`JITTER_OPERATORS`.
        jitter_prob: probability that all four operators are applied.
        strengths: s of brightness, contrast, saturation, hue, each >= 0, hue's at most 0.5. Amounts are uniform in [1 - s, 1 + s], from 0
            on; hue's and the additive brightness's in [-s, s].
        gray_prob, blur_prob, solarize_prob: probability of turning grey, of blurring, of solarizing.
        blur_sigma: range in pixels, > 0, uniform.
        blur_kernel: kernel length as a fraction of the view's side.
        solarize_threshold: in [0, 1].
    """

    operators: str
    jitter_prob: float
    strengths: tuple[float, float, float, float]
    gray_prob: float
    blur_prob: float
    blur_sigma: tuple[float, float]
    blur_kernel: float
    solarize_prob: float
    solarize_threshold: float

    def __post_init__(self):
        low, high = self.blur_sigma
        probabilities = {key: getattr(self, key.lower()) for key in ("JITTER_PROB", "GRAY_PROB", "BLUR_PROB", "SOLARIZE_PROB")}
        checks = [
            (self.operators in JITTER_OPERATORS, "OPERATORS", self.operators, f"one of {', '.join(JITTER_OPERATORS)}"),
            (min(self.strengths) >= 0, "BRIGHTNESS, CONTRAST, SATURATION, HUE", self.strengths, "numbers >= 0"),
            (self.strengths[HUE] <= 0.5, "HUE", self.strengths[HUE], "at most 0.5, half a turn"),
            (0 < low <= high, "BLUR_SIGMA", self.blur_sigma, "low <= high, both > 0"),
            *((0 <= value <= 1, key, value, "probabilities in [0, 1]") for key, value in probabilities.items()),
        ]
        wrong = [f"DETCON.AUG.{key} is {found!r}; expected {expected}." for ok, key, found, expected in checks if not ok]
        if wrong:
            raise ValueError("\n".join(wrong))

    @classmethod
    def from_config(cls, aug: CfgNode, view: int) -> "PhotometricAugmentation":
        """From the node DETCON.AUG, for view 0 or 1."""

        def probability(key: str) -> float:
            if len(aug[key]) != 2:
                raise ValueError(f"DETCON.AUG.{key} is {aug[key]}; expected two probabilities, (view 1, view 2).")
            return aug[key][view]

        return cls(
            operators=aug.OPERATORS,
            jitter_prob=probability("JITTER_PROB"),
            strengths=(aug.BRIGHTNESS, aug.CONTRAST, aug.SATURATION, aug.HUE),
            gray_prob=probability("GRAY_PROB"),
            blur_prob=probability("BLUR_PROB"),
            blur_sigma=tuple(aug.BLUR_SIGMA),
            blur_kernel=aug.BLUR_KERNEL,
            solarize_prob=probability("SOLARIZE_PROB"),
            solarize_threshold=aug.SOLARIZE_THRESHOLD,
        )

    def sample(self, rng: np.random.Generator) -> PhotometricTransform:
        """Samples a transform; every call takes the same count of numbers from ``rng``, whatever the probabilities are."""
        jitter, gray, blur, solarize = rng.random(4) < (self.jitter_prob, self.gray_prob, self.blur_prob, self.solarize_prob)
        amounts = [rng.uniform(*self._amounts(operator, strength)) for operator, strength in enumerate(self.strengths)]
        order = rng.permutation(len(amounts))
        sigma = rng.uniform(*self.blur_sigma)
        return PhotometricTransform(
            operators=self.operators,
            jitter=tuple((int(operator), amounts[operator]) for operator in order) if jitter else (),
            gray=bool(gray),
            blur_sigma=sigma if blur else None,
            blur_kernel=self.blur_kernel,
            solarize_threshold=self.solarize_threshold if solarize else None,
        )

    def _amounts(self, operator: int, strength: float) -> tuple[float, float]:
        additive = operator == HUE or (operator == BRIGHTNESS and self.operators == "dm_pix")
        return (-strength, strength) if additive else (max(0.0, 1 - strength), 1 + strength)
