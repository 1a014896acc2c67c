"""The public checkpoints that ``detcon://NAME`` knows; ``catalog.yaml`` lists them."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from detcon_d2.checkpoint.convert.spec import IMAGENET

PREFIX = "detcon://"


@dataclass(frozen=True)
class Result:
    """AP of Mask R-CNN FPN on COCO val2017, fine-tuned from an entry or from weights of its method."""

    schedule: str  # 1x or 2x
    box_ap: float
    mask_ap: float
    by: str  # who measured it, and on which weights where these are not the entry's own
    backend: str = ""  # ``d2.describe_backend()`` of a result of ours


@dataclass(frozen=True)
class Entry:
    """One downloadable checkpoint. Pixel statistics are in 0..255, in the order of ``channel_order``."""

    name: str
    url: str
    source: str  # the page that gives the file's address and content
    paper: str
    licence: str
    method: str
    depth: int
    epochs: int | None
    pretraining_data: str = "ImageNet-1k"
    size: int | None = None  # bytes
    sha256: str | None = None
    sha256_prefix: str | None = None  # first digits, as torchvision's file names carry them
    md5_prefix: str | None = None
    branches: Sequence[str] = ("online",)
    """Encoders in the file; the first one is what ``detcon://NAME`` means, the others are ``detcon://NAME/BRANCH``."""
    style: str | None = None  # key style for the reader; None: detected
    channel_order: str = "RGB"
    pixel_mean: Sequence[float] = tuple(IMAGENET["pixel_mean"])
    pixel_std: Sequence[float] = tuple(IMAGENET["pixel_std"])
    stride_in_1x1: bool = False
    padding: str = "symmetric"
    published: Sequence[Result] = ()
    reproduced: Sequence[Result] = ()  # measured by this project, with backend
    note: str = ""

    @property
    def file_name(self) -> str:
        """Last part of the URL: the file's name in the cache and on a mirror."""
        return urlsplit(self.url).path.rpartition("/")[2]

    def facts(self) -> dict[str, Any]:
        """What the file does not report about itself, for the metadata of the converted weights."""
        facts = {"method": self.method, "epochs": self.epochs, "datasets": [self.pretraining_data], "channel_order": self.channel_order}
        facts |= {"pixel_mean": list(self.pixel_mean), "pixel_std": list(self.pixel_std), "stride_in_1x1": self.stride_in_1x1}
        facts |= {"padding": self.padding, "licence": self.licence, "source_url": self.url}
        return {key: value for key, value in facts.items() if value is not None}


def _entry(name: str, row: dict[str, Any]) -> Entry:
    return Entry(name, **row | {key: [Result(*result) for result in row.get(key, ())] for key in ("published", "reproduced")})


ZOO: dict[str, Entry] = {
    name: _entry(name, row) for name, row in yaml.safe_load(Path(__file__).with_name("catalog.yaml").read_text("utf-8")).items()
}
"""Name -> entry; another project may add its own."""


def find_entry(name: str) -> tuple[Entry, str]:
    """Entry and branch of ``[detcon://]NAME[/BRANCH]``; without BRANCH, the entry's first one.

    Raises ValueError: there is no such entry, with the nearest names; or no such branch.
    """
    name, _, branch = name.removeprefix(PREFIX).partition("/")
    if name not in ZOO:
        nearest = difflib.get_close_matches(name, ZOO, n=3, cutoff=0.4)
        found = f"nearest: {', '.join(nearest)}" if nearest else f"expected one of {', '.join(ZOO)}"
        raise ValueError(f"No {name!r} in the model zoo; {found}. python tools/zoo.py list shows all.")
    entry = ZOO[name]
    if branch and branch not in entry.branches:
        raise ValueError(f"{name} has no branch {branch!r}; expected {' or '.join(entry.branches)} ({PREFIX}{name}/BRANCH).")
    return entry, branch or entry.branches[0]


def markdown_table(entries: Iterable[Entry]) -> list[str]:
    """The lines of MODEL_ZOO.md's table of entries."""
    lines = ["| name | method | network | pretraining | file from | licence | padding | checksum |", "|---|---|---|---|---|---|---|---|"]
    for entry in entries:
        length = f"{entry.epochs} epochs" if entry.epochs else "epochs not stated"
        note = f" ({entry.note})" if entry.note else ""
        digests = (("SHA-256", entry.sha256 and entry.sha256[:12]), ("SHA-256", entry.sha256_prefix), ("MD5", entry.md5_prefix))
        checksum = ", ".join(f"{kind} {digits}..." for kind, digits in digests if digits) or "recorded at first use"
        lines.append(
            f"| `{entry.name}` | [{entry.method}]({entry.paper}) | R-{entry.depth} | {entry.pretraining_data}, {length}{note} "
            f"| [{entry.file_name}]({entry.url}), [source]({entry.source}) | {entry.licence} | {entry.padding} | {checksum} |"
        )
    return lines
