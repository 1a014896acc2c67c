"""The runs behind ``test_golden.py``: inputs, cases, what is measured of a run, and the machine on which numbers can be equal to the bit.

Nothing here depends on the layout of the package: the tools are run as tools, and the files that they write are read.
"""

import contextlib
import hashlib
import json
import math
import platform
import re
import runpy
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import cv2
import numpy as np
import torch
import torchvision
import yaml
from PIL import Image

from detcon_d2 import d2
from tests.conftest import REPO, TINY

FOLDER = Path(__file__).parent / "fixtures" / "golden"
NUMBERS = FOLDER / "golden.json"
STEPS = 5
IMAGES = 12
LABEL_MAPS = {
    "fh": ("--generator", "fh", "--scale", 60, "--min-size", 60),
    "fh_scales": ("--generator", "fh_scales", "--scales", "40,120", "--min-sizes", "40,120"),
}
"""Folder of stored label maps -> arguments of tools/generate_masks.py; ``<folder>_shards`` holds the same as shards."""
GENERATED = LABEL_MAPS | {
    "hierarchy": ("--generator", "hierarchy", "--regions", "4,12"),
    "slic": ("--generator", "slic", "--segments", 9),
    "watershed": ("--generator", "watershed", "--markers", 9),
    "annotations": ("--generator", "annotations"),
}
"""Name -> arguments, of the label maps that the test makes."""


def fingerprint() -> dict[str, str]:
    """Return everything except the backend that must be equal for the last bit of a number to be equal."""
    return {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "bf16": str(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()),
        "processor": _processor(),
    }


def _processor() -> str:
    """Name, family and model number: the name alone may be as vague as "AMD EPYC"."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = [re.search(rf"^{name}\s*:\s*(.*)$", text, re.MULTILINE) for name in ("model name", "cpu family", "model")]
    return ", ".join(match.group(1) for match in found if match)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Sums are added up in an order that depends on the number of threads."""
    threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(cv2_threads)


def write_inputs(folder: Path) -> Path:
    """Write ``images/{a,b}/NNN.png`` of 64 x 80 pixels and ``instances.json``, whose objects are the rectangles in them."""
    # The legacy generator: its numbers are promised never to change.
    rng = np.random.RandomState(0)
    records, annotations = [], []
    for index in range(IMAGES):
        image = rng.randint(0, 60, (64, 80, 3)).astype(np.uint8)
        name = f"{'ab'[index % 2]}/{index:03d}.png"
        for _ in range(4):
            x, y, w, h = rng.randint(0, 50), rng.randint(0, 36), rng.randint(14, 30), rng.randint(14, 28)
            image[y : y + h, x : x + w] = rng.randint(60, 255, 3)
            corners = [x, y, x + w, y, x + w, y + h, x, y + h]
            annotation = {"id": len(annotations) + 1, "image_id": index + 1, "category_id": rng.randint(1, 4), "iscrowd": 0}
            annotations.append(annotation | {"area": w * h, "bbox": [x, y, w, h], "segmentation": [corners]})
        records.append({"id": index + 1, "file_name": name, "height": 64, "width": 80})
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    categories = [{"id": number, "name": f"kind{number}"} for number in (1, 2, 3)]
    content = {"images": records, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content, default=int))
    return folder


class Case(NamedTuple):
    """A run of tools/train_net.py with a config file, relative to the repository, and config keys on top of it.

    ``golden``: the case whose numbers this case has, if it has none of its own. ``bf16``: train in bf16 on any CPU. ``tolerance``: of the
    losses, relative; see ``test_golden.py``.
    """

    config: str
    keys: Mapping[str, object]
    golden: str = ""
    bf16: bool = False
    tolerance: float = 2e-3


_TINY = TINY | {
    "MODEL.RESNETS.OUT_FEATURES": '["res4"]',
    "DETCON.IN_FEATURE": "res4",
    "DETCON.MASKS.GRID": 3,
    "DETCON.SOLVER.BASE_LR_256": 0.0,
    "DETCON.LOG_PERIOD": 1,
    "SOLVER.MAX_ITER": STEPS,
}
# Five steps must move the weights by far more than rounding does, and yet not magnify rounding.
_LARS = {"DETCON.SOLVER.OPTIMIZER": "LARS", "DETCON.SOLVER.ETA": 0.2, "SOLVER.BASE_LR": 0.02}
_SGD = {"DETCON.SOLVER.OPTIMIZER": "SGD", "SOLVER.BASE_LR": 0.001, "SOLVER.WEIGHT_DECAY": 1e-3}
_ADAMW = {"DETCON.SOLVER.OPTIMIZER": "AdamW", "SOLVER.BASE_LR": 5e-4, "SOLVER.WEIGHT_DECAY": 0.01}
_FH = {"DETCON.MASKS.SOURCE": "files", "DETCON.MASKS.ROOTS": '("{fh}",)'}
_FH_SHARDS = _FH | {"DETCON.MASKS.ROOTS": '("{fh_shards}",)'}
_SCALES = _FH | {"DETCON.MASKS.ROOTS": '("{fh_scales}",)'}
_SCALES_SHARDS = _FH | {"DETCON.MASKS.ROOTS": '("{fh_scales_shards}",)'}
_KMEANS = {"DETCON.MASKS.SOURCE": "kmeans", "DETCON.MASKS.KMEANS.K": 4, "DETCON.MASKS.KMEANS.SIZE": 80}
_REFRESH = _KMEANS | {"DETCON.MASKS.KMEANS.REFRESH_EPOCHS": 1, "DETCON.MASKS.KMEANS.K_END": 2}
_FAST = {"DETCON.AUG.MODE": "fast"}
_TORCHVISION = {"DETCON.AUG.OPERATORS": "torchvision", "DETCON.AUG.SATURATION": 0.4, "DETCON.AUG.SOLARIZE_PROB": "(0.0, 0.0)"}
_R18 = {
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
    "MODEL.RESNETS.OUT_FEATURES": '["res3"]',
    "DETCON.IN_FEATURE": "res3",
}
# A key for each line of the model and the loss that no other case runs.
_OTHER = {
    "DETCON.BACKBONE.PADDING": "same",
    "DETCON.WIDTH_MULTIPLIER": 2,
    "DETCON.EMA.INIT": "random",
    "DETCON.LOCAL_NEGATIVES": False,
    "DETCON.VIEWS.INTERPOLATION": "bicubic_pil",
}


def _pretrain(method: str, *keys: Mapping[str, object], **options: Any) -> Case:
    values = _TINY | {"DATASETS.TRAIN": '("folder:{images}",)', "MODEL.META_ARCHITECTURE": method}
    for more in keys:
        values |= more
    return Case("configs/Base-DetCon.yaml", values, **options)


_DETECTOR = {
    "MODEL.DEVICE": "cpu",
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": 16,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
    "MODEL.ROI_HEADS.NUM_CLASSES": 3,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 32,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 100,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 50,
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "INPUT.MAX_SIZE_TRAIN": 80,
    "INPUT.MASK_FORMAT": "polygon",
    "DATASETS.TRAIN": '("coco:{folder}/instances.json,{images}",)',
    "DATASETS.TEST": "()",
    "DATALOADER.NUM_WORKERS": 0,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": STEPS,
    "SOLVER.STEPS": "()",
    "SOLVER.WARMUP_ITERS": 2,
    "SOLVER.AMP.ENABLED": False,
    "TEST.PRECISE_BN.ENABLED": False,
    "DETCON.FINETUNE.REFERENCE_IMS_PER_BATCH": 0,
    "DETCON.LOG_PERIOD": 1,
    "SEED": 0,
}
_CONVERTED = _DETECTOR | {
    "MODEL.WEIGHTS": "{golden}/backbone.pkl",
    "SOLVER.BASE_LR": 0.02,
    "MODEL.ANCHOR_GENERATOR.SIZES": "[[16],[32],[56]]",
}

CASES = {
    "b-files": _pretrain("DetConB", _FH, _LARS),
    "b-files-shards": _pretrain("DetConB", _FH_SHARDS, _LARS, golden="b-files"),
    "b-files-scales-fast": _pretrain("DetConB", _SCALES, _FAST, _ADAMW),
    "b-files-device": _pretrain("DetConB", _FH, _LARS, {"DETCON.AUG.WHERE": "device"}),
    "b-files-bf16": _pretrain("DetConB", _FH, _LARS, {"SOLVER.AMP.ENABLED": True}, bf16=True, tolerance=5e-2),
    "b-grid-other": _pretrain("DetConB", _OTHER, _SGD),
    "b-grid-r18-fast": _pretrain("DetConB", _R18, _FAST, _LARS, {"SOLVER.BASE_LR": 0.002, "DETCON.ZERO_INIT_RESIDUAL": False}),
    "b-grid-micro": _pretrain("DetConB", _SGD, {"DETCON.MICRO_BATCH": 2}),
    "b-kmeans": _pretrain("DetConB", _KMEANS, _ADAMW, tolerance=3e-2),
    "b-kmeans-refresh": _pretrain("DetConB", _REFRESH, _FAST, _SGD, tolerance=3e-2),
    "s-files-fast": _pretrain("DetConS", _FH, _FAST, _TORCHVISION, _ADAMW),
    "s-files-scales": _pretrain("DetConS", _SCALES, _LARS),
    "s-files-scales-shards": _pretrain("DetConS", _SCALES_SHARDS, _LARS, golden="s-files-scales"),
    "s-grid-r18": _pretrain("DetConS", _R18, _TORCHVISION, _ADAMW, {"SOLVER.BASE_LR": 1e-4}),
    "s-grid-micro-bf16": _pretrain("DetConS", _LARS, {"DETCON.MICRO_BATCH": 2, "SOLVER.AMP.ENABLED": True}, bf16=True, tolerance=5e-2),
    "s-kmeans": _pretrain("DetConS", _KMEANS, _FAST, _LARS, tolerance=3e-2),
    "s-kmeans-refresh": _pretrain("DetConS", _REFRESH, _TORCHVISION, _ADAMW, tolerance=3e-2),
    "finetune-r18": Case("configs/quickstart/mask_rcnn_R_18_FPN.yaml", _DETECTOR | {"SOLVER.BASE_LR": 2e-4}, tolerance=1e-2),
    "finetune-converted": Case("tests/fixtures/golden/backbone.yaml", _CONVERTED | {"DETCON.FINETUNE.OPTIMIZER": "SGD"}, tolerance=1e-2),
}
"""Together they cover each dimension for both methods; the full product would take minutes."""

TO_BE_STORED = _pretrain(
    "DetConB",
    _LARS,
    {
        "MODEL.RESNETS.OUT_FEATURES": '["res3"]',
        "MODEL.RESNETS.STEM_OUT_CHANNELS": 4,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 8,
        "MODEL.RESNETS.WIDTH_PER_GROUP": 2,
        "DETCON.IN_FEATURE": "res3",
        "DETCON.PROJECTOR.HIDDEN_DIM": 16,
        "DETCON.PROJECTOR.OUT_DIM": 8,
        "DETCON.PREDICTOR.HIDDEN_DIM": 16,
        "SOLVER.MAX_ITER": STEPS + 2,
        "SOLVER.CHECKPOINT_PERIOD": STEPS,
    },
)
"""The run whose checkpoint after five of its seven iterations is stored, as small as networks of this package get."""

CHECKPOINT = f"model_{STEPS - 1:07d}.pth"


def run_tool(name: str, *arguments: object) -> None:
    """Run a file of ``tools`` in this process, where everything is imported already."""
    with mock.patch.object(sys, "argv", [name, *map(str, arguments)]):
        try:
            runpy.run_path(str(REPO / "tools" / name), run_name="__main__")
        except SystemExit as stop:
            assert not stop.code, f"tools/{name} {' '.join(map(str, arguments))} ended with status {stop.code}; its messages are above"


def run_case(case: Case, inputs: Path, output: Path, label_maps: Mapping[str, Path]) -> dict[str, Any]:
    """Train as a case says on :func:`write_inputs`; ``label_maps``: name, as in braces in ``ROOTS`` of the cases -> folder to train on."""
    places = {"folder": inputs, "images": inputs / "images", "golden": FOLDER} | label_maps
    values = {key: str(value).format_map(places) if "{" in str(value) else value for key, value in case.keys.items()}
    options = [item for pair in values.items() for item in pair]
    # Train in bf16 also if the CPU has no instructions for it: the package would train in float32.
    forced = mock.patch.object(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True, create=True)
    with forced if case.bf16 else contextlib.nullcontext():
        return train(output, "--config-file", REPO / case.config, *options)


def resume(inputs: Path, output: Path) -> dict[str, Any]:
    """Continue the stored checkpoint, which must be in ``output`` with its ``last_checkpoint``, to the end of its run."""
    spec = f'("folder:{inputs / "images"}",)'
    return train(output, "--config-file", FOLDER / "config.yaml", "--resume", "DATASETS.TRAIN", spec)


def train(output: Path, *arguments: object) -> dict[str, Any]:
    """Run tools/train_net.py and return what is recorded of it: scalars of each step, sums over the weights, digest of both."""
    with one_thread(), watched_scalars() as scalars:
        run_tool("train_net.py", *arguments, "OUTPUT_DIR", output)
    rows = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    steps = len(scalars["total_loss"])
    assert [row["iteration"] for row in rows if "total_loss" in row] == list(range(rows[-1]["iteration"] + 1))[-steps:]
    weights = torch.load(output / "model_final.pth", map_location="cpu", weights_only=True)["model"]
    digest = hashlib.sha256(json.dumps(scalars, sort_keys=True).encode())
    digest.update(tensors_digest(weights).encode())
    return {"scalars": scalars, "weights": checksums(weights), "digest": digest.hexdigest()}


@contextlib.contextmanager
def watched_scalars() -> Iterator[dict[str, list[float]]]:
    """Scalar -> its value in each step, as given to Detectron2's event storage; ``metrics.json`` has medians of the last steps only."""
    found: dict[str, list[float]] = {}
    put = d2.EventStorage.put_scalar
    # Metrics that the recorded commit did not have.
    later = {f"learning/{name}" for name in ("constant_views", "regions_in_pixels", "lost_regions")}

    def put_and_note(storage: Any, name: str, value: Any, *more: Any, **options: Any) -> None:
        if not re.search("time|second", name) and name not in later:
            found.setdefault(name, []).append(float(value))
        put(storage, name, value, *more, **options)

    with mock.patch.object(d2.EventStorage, "put_scalar", put_and_note):
        yield found


def trained_in_bf16(output: Path) -> bool:
    """Return whether a run was in bf16 in the end: on a CPU without instructions for it, the tool reports that and trains in float32."""
    return yaml.safe_load((output / "config.yaml").read_text())["SOLVER"]["AMP"]["ENABLED"]


def checksums(weights: Mapping[str, torch.Tensor]) -> dict[str, list[float]]:
    """Return group -> number of values, their sum and their L2 norm in float64, of all floating-point tensors of a state dict.

    A group is a stage of the encoder, a head of the detector or a whole head of pretraining; running statistics are groups of their own.
    """
    groups: dict[str, list[torch.Tensor]] = {}
    for key, tensor in sorted(weights.items()):
        if tensor.is_floating_point():
            parts = key.split(".")
            stage = next((i for i, part in enumerate(parts) if re.fullmatch(r"stem|res\d", part)), None)
            end = stage + 1 if stage is not None else 2 if parts[0] in ("target", "roi_heads", "backbone") else 1
            kind = " statistics" if parts[-1].startswith("running_") else ""
            groups.setdefault(".".join(parts[:end]) + kind, []).append(tensor.double().flatten())
    joined = {group: torch.cat(tensors) for group, tensors in groups.items()}
    return {group: [values.numel(), math.fsum(values.tolist()), values.norm().item()] for group, values in joined.items()}


def tensors_digest(tensors: Mapping[str, Any]) -> str:
    """sha256 over names, types, shapes and bytes of tensors or arrays."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        array = np.asarray(tensors[key])
        digest.update(f"{key} {array.dtype} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def make_label_maps(inputs: Path, folder: Path, arguments: tuple, file_format: str = "png") -> dict[str, np.ndarray]:
    """Run tools/generate_masks.py with ``arguments`` (the generator and its parameters) on :func:`write_inputs`, into a new ``folder``.

    Return the label maps as :func:`read_pngs` does; nothing unless ``file_format`` is "png".
    """
    spec = f"coco:{inputs / 'instances.json'},{inputs / 'images'}" if "annotations" in arguments else f"folder:{inputs / 'images'}"
    with one_thread():
        run_tool("generate_masks.py", spec, folder, *arguments, "--format", file_format, "--workers", 1)
    return read_pngs(folder)


def region_counts(label_maps: Mapping[str, np.ndarray]) -> list[int]:
    """Number of regions of each image, in the order of their keys."""
    return [len(np.unique(label_maps[key])) for key in sorted(label_maps)]


def read_pngs(root: Path) -> dict[str, np.ndarray]:
    """Return key of the image -> its label map; several layers are below each other."""
    found = {}
    for path in sorted(root.rglob("*.png")):
        with Image.open(path) as image:
            found[path.relative_to(root).with_suffix("").as_posix()] = np.array(image).astype(np.uint16)
    return found


def convert_shards(root: Path, folder: Path, file_format: str) -> Path:
    """Convert label maps in shards, which earlier versions wrote, to another format in a new ``folder``, and return it."""
    run_tool("merge_masks.py", folder, root, "--format", file_format, "--images", "none")
    return folder


def label_map_folders(folder: Path) -> dict[str, Path]:
    """Return the stored label maps, as the cases name them; ``folder``: an empty one, for the shards as tars, on which is trained."""
    pngs = {name: FOLDER / name for name in LABEL_MAPS}
    return pngs | {f"{name}_shards": convert_shards(FOLDER / f"{name}_shards", folder / name, "tar") for name in LABEL_MAPS}
