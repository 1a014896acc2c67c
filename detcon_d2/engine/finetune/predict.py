"""Apply a trained detector to images: draw boxes, masks, labels and scores on them, and write COCO results."""

import itertools
import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks
from tqdm import tqdm

from detcon_d2 import d2
from detcon_d2.data.reading import reading_from_config
from detcon_d2.engine.finetune.data import catalog_categories
from detcon_d2.engine.finetune.evaluate import load_detector
from detcon_d2.engine.finetune.look import spec_categories
from detcon_d2.engine.finetune.mapper import AtLeastOnePixel
from detcon_d2.engine.finetune.semantic import is_semantic
from detcon_d2.io.annotated.kinds import is_annotated_spec
from detcon_d2.io.atomic import atomic_file
from detcon_d2.io.images import read_image
from detcon_d2.io.names import fit_name, printable
from detcon_d2.io.specs import list_images

logger = logging.getLogger(__name__)

# Okabe and Ito's colours without black: distinct on photographs, also with most kinds of colour blindness.
_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
_OPACITY = 0.45
_WRITE_SECONDS = 10
# JPEG_MAX_DIMENSION of libjpeg; a larger image gets a smaller picture.
_MAX_JPEG_SIDE = 65500


class Predictor:
    """A detector and its test-time resizing, for one image at a time."""

    def __init__(self, cfg: "d2.CfgNode", weights: str):
        """
        Args:
            cfg: of the detector, with a device that exists on this machine.
            weights: checkpoint with every parameter.

        Raises ValueError: the checkpoint is not a detector of this config, or DETCON.DATA makes no sense.
        """
        if is_semantic(cfg):
            raise ValueError("MODEL.META_ARCHITECTURE is 'SemanticSegmentor'; expected a detector, such as 'GeneralizedRCNN'.")
        self.model, rest = load_detector(cfg, weights)
        self.class_names, self.category_ids = find_categories(cfg, rest.get("metadata"))
        self._format = cfg.INPUT.FORMAT
        sizes = [cfg.INPUT.MIN_SIZE_TEST] * 2
        self._resize = AtLeastOnePixel(d2.transforms.ResizeShortestEdge(sizes, cfg.INPUT.MAX_SIZE_TEST))
        self.reading = reading_from_config(cfg)

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> "d2.Instances":
        """Detections in an RGB uint8 image (H, W, 3), on the CPU: pred_boxes xyxy in pixels, scores, pred_classes, pred_masks (N, H, W)."""
        height, width = image.shape[:2]
        image = image if self._format == "RGB" else image[:, :, ::-1]
        resized = self._resize.get_transform(image).apply_image(image)
        tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1), dtype=np.float32))
        return self.model([{"image": tensor, "height": height, "width": width}])[0]["instances"].to("cpu")


def find_categories(cfg: "d2.CfgNode", metadata: Mapping[str, Any] | None) -> tuple[list[str], list[int]]:
    """Names of a detector's classes and their ids in COCO results, in the order of its outputs.

    They come from the checkpoint's metadata, or else from the first data set of DATASETS.TEST that can be read, or else they are numbers
    from 0.
    """
    count = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    names, ids = (list((metadata or {}).get(key) or ()) for key in ("classes", "category_ids"))
    for name in () if names else cfg.DATASETS.TEST:
        found = spec_categories(name) if is_annotated_spec(name) else catalog_categories(name)
        if len(found[0]) == count:
            names, ids = found
            break
    if not names:
        names, ids = [f"class {index}" for index in range(count)], []
    return names, ids or list(range(len(names)))


def find_images(inputs: Iterable[str]) -> dict[str, Path]:
    """Map files and folders to ``{name relative to the output: image file}``. The names of a folder's images start with the folder's name.

    Raises ValueError: a path that does not exist, a folder without images, or two images with the same name.
    """
    found: dict[str, Path] = {}
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            named = {f"{path.resolve().name}/{record['key']}": Path(record["file_name"]) for record in list_images(f"folder:{text}")}
        elif path.is_file():
            named = {path.name: path}
        else:
            raise ValueError(f"{text} is neither an image nor a folder; expected paths that exist.")
        for name in sorted(named.keys() & found.keys()):
            raise ValueError(f"{named[name]} and {found[name]} would get the same name, {name}; predict them into two output folders.")
        found |= named
    return found


def draw_detections(image: np.ndarray, instances: "d2.Instances", names: Sequence[str]) -> np.ndarray:
    """The image, RGB uint8 (H, W, 3), with masks, boxes and "label score" of :class:`Predictor`'s instances in the colour of each class.

    ``names`` are those of the classes; ``image`` is not changed.
    """
    classes = instances.pred_classes.tolist()
    if not classes:
        return image
    # Draw the best detection last, on top of the others.
    order = instances.scores.argsort().tolist()
    colours = [_COLOURS[classes[index] % len(_COLOURS)] for index in order]
    labels = [f"{names[classes[index]]} {instances.scores[index]:.2f}" for index in order]
    picture = torch.from_numpy(np.array(image.transpose(2, 0, 1)))
    if instances.has("pred_masks"):
        picture = draw_segmentation_masks(picture, instances.pred_masks[order].bool(), alpha=_OPACITY, colors=colours)
    picture = draw_bounding_boxes(picture, instances.pred_boxes.tensor[order], labels=labels, colors=colours, width=2)
    return picture.permute(1, 2, 0).numpy()


def predict(predictor: Predictor, images: dict[str, Path], output: Path) -> list[str]:
    """Write ``pictures/``, ``predictions.json`` and ``images.json`` (ids, files, sizes and pictures of the images) into ``output``.

    Predictions are COCO results: image_id, category_id, bbox (x, y, width, height) in pixels, score, and masks as compressed RLE. The lists
    are written again every ten seconds, so that a run that is stopped leaves what it has.

    Args:
        predictor: the detector.
        images: of :func:`find_images`.
        output: a folder; created if absent.

    Returns:
        a line for each image on which prediction failed. Raises OSError if ``output`` cannot be written.
    """
    results, listing, bad, pictures = [], [], [], set()

    def write_lists() -> None:
        for file_name, content in (("predictions.json", results), ("images.json", listing)):
            with atomic_file(output / file_name) as file:
                file.write(json.dumps(content).encode())

    output.mkdir(parents=True, exist_ok=True)
    written = time.monotonic()
    try:
        for image_id, (name, path) in enumerate(tqdm(images.items(), unit="image"), start=1):
            try:
                image = read_image(path, reading=predictor.reading)
                instances = predictor(image)
                drawn = draw_detections(image, instances, predictor.class_names)
                coco = d2.instances_to_coco_json(instances, image_id)
            # Of one image: that it cannot be read, or that memory does not suffice for it.
            except (ValueError, RuntimeError, MemoryError) as error:
                bad.append(f"{printable(str(path))}: {printable(getattr(error, 'reason', '') or f'{type(error).__name__}: {error}')}")
                tqdm.write(f"skipped {bad[-1]}")
                continue
            picture = _picture_name(name, pictures)
            size = {"height": image.shape[0], "width": image.shape[1]}
            listing.append({"id": image_id, "file_name": str(path), **size, "picture": f"pictures/{picture}"})
            results += [result | {"category_id": predictor.category_ids[result["category_id"]]} for result in coco]
            target = output / "pictures" / picture
            target.parent.mkdir(parents=True, exist_ok=True)
            shown = Image.fromarray(drawn)
            shown.thumbnail((_MAX_JPEG_SIDE, _MAX_JPEG_SIDE))
            with atomic_file(target) as file:
                shown.save(file, "JPEG", quality=92)
            if time.monotonic() - written > _WRITE_SECONDS:
                write_lists()
                written = time.monotonic()
    finally:
        write_lists()
    logger.info("%d detections in %d images: %s", len(results), len(listing), output)
    return bad


def _picture_name(name: str, taken: set[str]) -> str:
    """The name of an image's picture, which is added to ``taken``: the image's, as a .jpg; with a number if another image has it."""
    folder, slash, base = name.rpartition("/")
    stem = base[: -len(".jpg")] if base.lower().endswith(".jpg") else base
    for ending in itertools.chain([base[len(stem) :] or ".jpg"], (f"-{number}.jpg" for number in itertools.count(2))):
        picture = f"{folder}{slash}{fit_name(stem, ending)}"
        if picture not in taken:
            taken.add(picture)
            return picture
