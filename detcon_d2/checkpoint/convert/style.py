"""Checkpoint styles: where a publisher's file keeps its backbone, under which names, and what the file does not report."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from detcon_d2.checkpoint.convert.haiku import haiku_names
from detcon_d2.checkpoint.convert.key_maps import Naming, detectron2_names, sequential_names, staged_names, torchvision_names
from detcon_d2.checkpoint.convert.spec import IMAGENET

COMMON: dict[str, Any] = {"channel_order": "RGB", **IMAGENET, "stride_in_1x1": False, "norm": "BN", "padding": "symmetric"}
"""What is true of most files although they do not say it: torchvision's network and images."""
_NAMINGS: dict[str, Naming] = {
    "torchvision": torchvision_names,
    "detectron2": detectron2_names,
    "sequential": sequential_names,
    "staged": staged_names,
    "haiku": haiku_names,
}
_FROM_CODE = "Read from the publisher's code; no published file was at hand."


@dataclass(frozen=True)
class Style:
    """One way to publish a backbone. ``publishers.yaml``, the table of all styles, explains the fields."""

    name: str
    publishes: str
    online: tuple[str, ...]
    ema: tuple[str, ...] = ()
    naming: Naming = torchvision_names
    states: tuple[tuple[str, ...], ...] = (("state_dict",), ("model",), ("",))
    drops: Mapping[str, str] = field(default_factory=dict)
    marks: str = ""
    facts: Mapping[str, Any] = field(default_factory=lambda: COMMON)
    note: str = ""
    detected: bool = True


def _style(name: str, row: dict[str, Any]) -> Style:
    values = {key: tuple(row.pop(key)) for key in ("online", "ema") if key in row}
    if "naming" in row:
        values["naming"] = _NAMINGS[row.pop("naming")]
    if "states" in row:
        values["states"] = tuple(map(tuple, row.pop("states")))
    if "facts" in row:
        facts = row.pop("facts")
        values["facts"] = {} if facts is None else COMMON | facts
    if row.pop("from_code", False):
        row["note"] = f"{_FROM_CODE} {row.get('note', '')}".strip()
    return Style(name, **row, **values)


STYLES: dict[str, Style] = {
    name: _style(name, row) for name, row in yaml.safe_load(Path(__file__).with_name("publishers.yaml").read_text("utf-8")).items()
}
"""Every style by its name."""
