"""What a checkpoint style is: see :data:`detcon_d2.checkpoint.convert.styles.STYLES` for the table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from detcon_d2.checkpoint.convert.key_maps import Naming

IMAGENET: dict[str, Any] = {"pixel_mean": [123.675, 116.28, 103.53], "pixel_std": [58.395, 57.12, 57.375]}
"""Images standardised by ImageNet's statistics, in 0..255 units."""
UNIT: dict[str, Any] = {"pixel_mean": [0.0, 0.0, 0.0], "pixel_std": [255.0, 255.0, 255.0]}
"""Images scaled to [0, 1] and nothing more."""
STATISTICS = {"imagenet": IMAGENET, "unit": UNIT}
COMMON: dict[str, Any] = {"channel_order": "RGB", **IMAGENET, "stride_in_1x1": False, "norm": "BN", "padding": "symmetric"}
"""What most files do not say and mean: torchvision's network and images."""


@dataclass(frozen=True)
class Style:
    """One way to publish a backbone. Patterns are regular expressions from the start of a key, after DDP's ``module.`` is gone."""

    name: str
    publishes: str
    """Whose files these are."""
    naming: Naming
    online: tuple[str, ...]
    """What stands before the backbone's names; the first that fits is taken."""
    ema: tuple[str, ...] = ()
    """The same of the averaged encoder (key encoder, target, teacher); () for a style without one."""
    states: tuple[tuple[str, ...], ...] = (("state_dict",), ("model",), ("",))
    """Where the state dict lies, tried in order: dotted paths, "" being the file itself; of several each puts its path before its keys."""
    drops: Mapping[str, str] = field(default_factory=dict)
    """Reason -> pattern of keys that are no backbone."""
    marks: str = ""
    """Pattern that some key must match for the style to be detected."""
    facts: Mapping[str, Any] = field(default_factory=lambda: COMMON)
    """Metadata that such files do not hold themselves."""
    note: str = ""
    detected: bool = True
    """False: nothing in the file tells it from another style, so it must be asked for."""
    collect: Callable[[Any], tuple[dict[str, Any], list[str]] | None] | None = None
    """In place of ``states``, for containers of another kind."""
    layout: Callable[[str, torch.Tensor], torch.Tensor] = lambda name, tensor: tensor
    """(Detectron2's name, tensor of the file) -> tensor in torch's layout."""
