"""What a run has cost, in the same units for every method: images, forward passes, seconds, trained parameters."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CROP = 224 * 224
"""Pixels of the unit of forward passes: the encoder's pass over one crop of 224 x 224."""
_THEN = ", then "


@dataclass
class Budget:
    """Sums over all processes and over all parts of a resumed run. What a killed run did after its last checkpoint is done again, and
    counts once.

    Attributes:
        images: images seen, each time that one is seen; the views of an image are one.
        trained_pixels: pixels of all crops that went through the trained encoder, with gradients.
        other_pixels: pixels of all images that went through an encoder without gradients: the EMA copy, or the one that learns regions.
        seconds: wall-clock time of the training iterations, without checkpoints and evaluation.
        facts: further entries of the metadata, which do not grow.
        complete: False where a part of the run was not counted, because an earlier version trained it.
    """

    images: int = 0
    trained_pixels: int = 0
    other_pixels: int = 0
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    complete: bool = True

    def metadata(self) -> dict[str, Any]:
        """Entries of the metadata: ``images_seen``, ``seconds``, the facts and, where there were forward passes of an encoder,
        ``forwards_trained`` and ``forwards_no_grad`` in units of :data:`CROP`, in total and ``..._per_image``. Nothing where the budget is
        not complete."""
        if not self.complete or not self.images:
            return {}
        forwards = {"forwards_trained": self.trained_pixels / CROP, "forwards_no_grad": self.other_pixels / CROP}
        per_image = {f"{name}_per_image": round(total / self.images, 4) for name, total in forwards.items()}
        return {
            "images_seen": self.images,
            **(per_image | forwards if self.trained_pixels else {}),
            "seconds": round(self.seconds, 3),
            **self.facts,
        }

    def run_on(self, device: str) -> None:
        """Note the device; where a resumed run had another one, both."""
        earlier = self.facts.get("device", device)
        self.facts["device"] = earlier if earlier.split(_THEN)[-1] == device else earlier + _THEN + device

    def restore(self, metadata: Mapping[str, Any]) -> None:
        """Continue the count of a checkpoint's metadata."""
        self.complete = "images_seen" in metadata
        if self.complete:
            self.facts["device"] = metadata["device"]
            self.images, self.seconds = metadata["images_seen"], metadata["seconds"]
            self.trained_pixels = round(metadata.get("forwards_trained", 0) * CROP)
            self.other_pixels = round(metadata.get("forwards_no_grad", 0) * CROP)


def describe_budget(metadata: Mapping[str, Any]) -> str:
    """One line on the budget in a checkpoint's metadata; it says so where there is none."""
    if "images_seen" not in metadata:
        return "Budget: unknown, because an earlier version of detcon_d2 trained a part of this run."
    parts = [f"{metadata['images_seen']:,} images seen"]
    if "forwards_trained" in metadata:
        parts.append(
            f"forward passes in units of one 224 crop: per image {metadata['forwards_trained_per_image']:.2f} trained + "
            f"{metadata['forwards_no_grad_per_image']:.2f} without gradient, in total {metadata['forwards_trained']:,.0f} + "
            f"{metadata['forwards_no_grad']:,.0f}"
        )
    parts.append(f"{metadata['seconds']:,.0f} s of training on {metadata['device']}")
    if "parameters_encoder" in metadata:
        parts.append(f"{metadata['parameters_encoder']:,} + {metadata['parameters_heads']:,} trained parameters (encoder + heads)")
    return f"Budget: {'; '.join(parts)}."
