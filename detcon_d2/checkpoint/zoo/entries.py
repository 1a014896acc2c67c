"""The public checkpoints that ``detcon://NAME`` knows. Facts only, each from the source that the entry names; None or "" is not known.

To add one, see MODEL_ZOO.md; its table is ``tools/zoo.py list --markdown``, and a test compares the two.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Result:
    """AP of Mask R-CNN FPN on COCO val2017, fine-tuned from an entry or from weights of its method."""

    schedule: str
    """1x or 2x."""
    box_ap: float
    mask_ap: float
    by: str
    """Who measured it, and on which weights where these are not the entry's own."""
    backend: str = ""
    """``d2.describe_backend()`` of a result of ours."""


@dataclass(frozen=True)
class Entry:
    """One downloadable checkpoint. Pixel statistics are in 0..255, in the order of ``channel_order``."""

    name: str
    url: str
    source: str
    """The page that says where the file is and what it holds."""
    paper: str
    licence: str
    method: str
    depth: int
    epochs: int | None
    pretraining_data: str = "ImageNet-1k"
    size: int | None = None
    """Bytes."""
    sha256: str | None = None
    sha256_prefix: str | None = None
    """First digits, as torchvision's file names carry them."""
    md5_prefix: str | None = None
    branches: tuple[str, ...] = ("online",)
    """Encoders in the file; the first one is what ``detcon://NAME`` means, the others are ``detcon://NAME/BRANCH``."""
    style: str | None = None
    """Key style for the reader; None: detected."""
    channel_order: str = "RGB"
    pixel_mean: tuple[float, ...] = IMAGENET_MEAN
    pixel_std: tuple[float, ...] = IMAGENET_STD
    stride_in_1x1: bool = False
    padding: str = "symmetric"
    published: tuple[Result, ...] = ()
    reproduced: tuple[Result, ...] = ()
    """Measured by this project, with backend."""
    note: str = ""

    @property
    def file_name(self) -> str:
        """Last part of the URL: the file's name in the cache and on a mirror."""
        return urlsplit(self.url).path.rpartition("/")[2]

    def facts(self) -> dict[str, Any]:
        """What the file does not say about itself, for the metadata of the converted weights."""
        facts = {
            "method": self.method,
            "epochs": self.epochs,
            "datasets": [self.pretraining_data],
            "channel_order": self.channel_order,
            "pixel_mean": list(self.pixel_mean),
            "pixel_std": list(self.pixel_std),
            "stride_in_1x1": self.stride_in_1x1,
            "padding": self.padding,
            "licence": self.licence,
            "source_url": self.url,
        }
        return {key: value for key, value in facts.items() if value is not None}


_DETCON_FILES = "https://storage.googleapis.com/dm-detcon"
_META_FILES = "https://dl.fbaipublicfiles.com"
_DETCON_PAPER = "https://arxiv.org/abs/2103.10957"
_DETCON = {
    "source": "https://github.com/google-deepmind/detcon",
    "licence": "Apache-2.0 (of the repository)",
    "style": "haiku",
    "padding": "same",
}
_TABLE = "the DetCon paper"
_USERS = "users of the released weights, in Detectron2"

_ENTRIES = (
    Entry(
        name="detcon_b_r50_in1k",
        url=f"{_DETCON_FILES}/resnet50_detcon_b_imagenet_1k.npy",
        paper=_DETCON_PAPER,
        method="DetCon_B",
        depth=50,
        epochs=1000,
        published=(Result("1x", 42.7, 38.2, _TABLE), Result("2x", 43.4, 38.7, _TABLE), Result("1x", 42.2, 38.1, _USERS)),
        note="epochs: an author in issue 4 of the repository",
        **_DETCON,
    ),
    Entry(
        name="detcon_b_r200_in1k",
        url=f"{_DETCON_FILES}/resnet200_detcon_b_imagenet_1k.npy",
        paper=_DETCON_PAPER,
        method="DetCon_B",
        depth=200,
        epochs=None,
        **_DETCON,
    ),
    Entry(
        name="byol_r50_in1k",
        url=f"{_DETCON_FILES}/resnet50_byol_imagenet1k.npy",
        paper="https://arxiv.org/abs/2006.07733",
        method="BYOL",
        depth=50,
        epochs=1000,
        published=(Result("1x", 41.6, 37.2, _TABLE), Result("2x", 42.4, 38.0, _TABLE), Result("1x", 41.6, 37.6, _USERS)),
        note="in the bucket of the DetCon release, whose README does not name the file; epochs as its users say",
        **_DETCON,
    ),
    Entry(
        name="moco_v2_r50_800ep",
        url=f"{_META_FILES}/moco/moco_checkpoints/moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar",
        source="https://github.com/facebookresearch/moco",
        paper="https://arxiv.org/abs/2003.04297",
        licence="CC-BY-NC-4.0",
        method="MoCo v2",
        depth=50,
        epochs=800,
        style="moco",
        md5_prefix="a04e12f8",
        published=tuple(
            Result(x, box, mask, f"{_TABLE}, MoCo v2 of unstated length") for x, box, mask in (("1x", 40.1, 36.3), ("2x", 41.7, 37.6))
        ),
    ),
    Entry(
        name="moco_v3_r50_1000ep",
        url=f"{_META_FILES}/moco-v3/r-50-1000ep/r-50-1000ep.pth.tar",
        source="https://github.com/facebookresearch/moco-v3/blob/main/CONFIG.md",
        paper="https://arxiv.org/abs/2104.02057",
        licence="CC-BY-NC-4.0",
        method="MoCo v3",
        depth=50,
        epochs=1000,
        style="mocov3",
        branches=("online", "ema"),
    ),
    Entry(
        name="swav_r50_800ep",
        url=f"{_META_FILES}/deepcluster/swav_800ep_pretrain.pth.tar",
        source="https://github.com/facebookresearch/swav",
        paper="https://arxiv.org/abs/2006.09882",
        licence="CC-BY-NC-4.0",
        method="SwAV",
        depth=50,
        epochs=800,
        style="swav",
        # 0.228, not 0.229: src/multicropdataset.py of the repository.
        pixel_std=(58.14, 57.12, 57.375),
        published=(Result("1x", 41.6, 37.8, f"{_TABLE}, SwAV of unstated length"),),
        note="red has pixel std 58.14, as in its code",
    ),
    Entry(
        name="dino_r50",
        url=f"{_META_FILES}/dino/dino_resnet50_pretrain/dino_resnet50_pretrain.pth",
        source="https://github.com/facebookresearch/dino",
        paper="https://arxiv.org/abs/2104.14294",
        licence="Apache-2.0",
        method="DINO",
        depth=50,
        epochs=800,
        note="backbone only; epochs: issue 145 of the repository",
    ),
    Entry(
        name="barlow_twins_r50_1000ep",
        url=f"{_META_FILES}/barlowtwins/epochs1000_bs2048_lr0.2_lambd0.0051_proj_8192_8192_8192_scale0.024/resnet50.pth",
        source="https://github.com/facebookresearch/barlowtwins",
        paper="https://arxiv.org/abs/2103.03230",
        licence="CC-BY-NC-4.0",
        method="Barlow Twins",
        depth=50,
        epochs=1000,
    ),
    Entry(
        name="vicreg_r50",
        url=f"{_META_FILES}/vicreg/resnet50.pth",
        source="https://github.com/facebookresearch/vicreg",
        paper="https://arxiv.org/abs/2105.04906",
        licence="MIT",
        method="VICReg",
        depth=50,
        epochs=None,
    ),
    Entry(
        name="supervised_r50_v1",
        url="https://download.pytorch.org/models/resnet50-0676ba61.pth",
        source="https://docs.pytorch.org/vision/stable/models/generated/torchvision.models.resnet50.html",
        paper="https://arxiv.org/abs/1512.03385",
        licence="BSD-3-Clause (of torchvision)",
        method="supervised",
        depth=50,
        epochs=None,
        sha256_prefix="0676ba61",
        published=tuple(
            Result(x, box, mask, f"{_TABLE}, supervised weights of its own") for x, box, mask in (("1x", 39.6, 35.6), ("2x", 41.6, 37.6))
        ),
        note="IMAGENET1K_V1, 76.1 % top-1",
    ),
    Entry(
        name="supervised_r50_v2",
        url="https://download.pytorch.org/models/resnet50-11ad3fa6.pth",
        source="https://docs.pytorch.org/vision/stable/models/generated/torchvision.models.resnet50.html",
        paper="https://arxiv.org/abs/1512.03385",
        licence="BSD-3-Clause (of torchvision)",
        method="supervised",
        depth=50,
        epochs=None,
        sha256_prefix="11ad3fa6",
        note="IMAGENET1K_V2, 80.9 % top-1",
    ),
)

ZOO: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}
"""Name -> entry; another project may add its own."""


def find_entry(name: str) -> Entry:
    """The entry of that name.

    Raises:
        ValueError: there is none; with the nearest names.
    """
    if name in ZOO:
        return ZOO[name]
    nearest = difflib.get_close_matches(name, ZOO, n=3, cutoff=0.4)
    found = f"nearest: {', '.join(nearest)}" if nearest else f"expected one of {', '.join(ZOO)}"
    raise ValueError(f"No {name!r} in the model zoo; {found}. python tools/zoo.py list shows all.")


def markdown_table(entries: Iterable[Entry]) -> list[str]:
    """The lines of MODEL_ZOO.md's table of entries."""
    lines = ["| name | method | network | pretraining | file from | licence | padding | checksum |", "|---|---|---|---|---|---|---|---|"]
    for entry in entries:
        length = f"{entry.epochs} epochs" if entry.epochs else "epochs not stated"
        checksum = _checksum(entry)
        note = f" ({entry.note})" if entry.note else ""
        lines.append(
            f"| `{entry.name}` | [{entry.method}]({entry.paper}) | R-{entry.depth} | {entry.pretraining_data}, {length}{note} "
            f"| [{entry.file_name}]({entry.url}), [source]({entry.source}) | {entry.licence} | {entry.padding} | {checksum} |"
        )
    return lines


def _checksum(entry: Entry) -> str:
    if entry.sha256:
        return f"SHA-256 {entry.sha256[:12]}..."
    prefixes = (("SHA-256", entry.sha256_prefix), ("MD5", entry.md5_prefix))
    return ", ".join(f"{kind} {digits}..." for kind, digits in prefixes if digits) or "recorded at first use"
