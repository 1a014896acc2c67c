"""A trained detector on pictures: boxes, masks, labels and scores drawn on them, and as COCO results."""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks
from tqdm import tqdm

from detcon_d2 import d2
from detcon_d2.engine.finetune.evaluate import load_detector
from detcon_d2.io.atomic import write_atomically
from detcon_d2.io.specs import list_images

logger = logging.getLogger(__name__)

# Distinct on photographs and for most eyes (Okabe and Ito's, without black).
_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
_OPACITY = 0.45


@dataclass(frozen=True)
class Categories:
    """Names of a detector's classes and their ids in COCO results, in the order of its outputs."""

    names: tuple[str, ...]
    ids: tuple[int, ...]


class Predictor:
    """A detector and its test-time resizing; takes one image at a time."""

    def __init__(self, cfg: "d2.CfgNode", weights: str):
        """
        Args:
            cfg: of the detector, on a device that is there.
            weights: checkpoint with every parameter.

        Raises:
            ValueError: the checkpoint is no detector of this config.
        """
        self.model, rest = load_detector(cfg, weights)
        self.categories = find_categories(cfg, rest.get("metadata"))
        self._format = cfg.INPUT.FORMAT
        sizes = [cfg.INPUT.MIN_SIZE_TEST] * 2
        self._resize = d2.transforms.ResizeShortestEdge(sizes, cfg.INPUT.MAX_SIZE_TEST)

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> "d2.Instances":
        """Detections in an RGB uint8 image (H, W, 3), on the CPU: pred_boxes xyxy in pixels, scores, pred_classes, pred_masks (N, H, W)."""
        height, width = image.shape[:2]
        image = image if self._format == "RGB" else image[:, :, ::-1]
        resized = self._resize.get_transform(image).apply_image(image)
        tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1), dtype=np.float32))
        return self.model([{"image": tensor, "height": height, "width": width}])[0]["instances"].to("cpu")


def find_categories(cfg: "d2.CfgNode", metadata: dict[str, Any] | None) -> Categories:
    """From the checkpoint's metadata, else from the data set of DATASETS.TEST where it is registered, else plain numbers from 0."""
    if metadata and metadata.get("classes"):
        return Categories(tuple(metadata["classes"]), tuple(metadata["category_ids"]))
    count = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    names = [name for name in cfg.DATASETS.TEST if name in d2.DatasetCatalog.list()]
    known = d2.MetadataCatalog.get(names[0]) if names else None
    classes = known.get("thing_classes") if known else None
    if not classes or len(classes) != count:
        return Categories(tuple(f"class {index}" for index in range(count)), tuple(range(count)))
    ids = known.get("thing_dataset_id_to_contiguous_id") or {index: index for index in range(count)}
    return Categories(tuple(classes), tuple(sorted(ids, key=ids.get)))


def find_images(inputs: Iterable[str]) -> dict[str, Path]:
    """Files and folders -> relative name of the output -> image file. A folder's images come with its name before them.

    Raises:
        ValueError: a path that does not exist, a folder without images, or two images with one name.
    """
    found: dict[str, Path] = {}
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            named = {f"{path.resolve().name}/{record['key']}": Path(record["file_name"]) for record in list_images(f"folder:{text}")}
        elif path.is_file():
            named = {path.name: path}
        else:
            raise ValueError(f"{text} is neither an image nor a folder; expected existing paths.")
        for name in sorted(named.keys() & found.keys()):
            raise ValueError(f"{named[name]} and {found[name]} would get the same name, {name}; predict them into two output folders.")
        found |= named
    return found


def to_coco_results(instances: "d2.Instances", image_id: int, categories: Categories) -> list[dict[str, Any]]:
    """Detections as COCO results: bbox (x, y, width, height), score, and with masks a compressed run length.

    Args:
        instances: of :class:`Predictor`.
        image_id: the image's id in the results.
        categories: of the detector.
    """
    boxes = instances.pred_boxes.tensor.clone()
    boxes[:, 2:] -= boxes[:, :2]
    rows = zip(boxes.tolist(), instances.scores.tolist(), instances.pred_classes.tolist())
    results = [{"image_id": image_id, "category_id": categories.ids[c], "bbox": box, "score": score} for box, score, c in rows]
    if instances.has("pred_masks"):
        for result, mask in zip(results, instances.pred_masks.numpy()):
            encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            result["segmentation"] = {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")}
    return results


def draw_detections(image: np.ndarray, instances: "d2.Instances", names: Sequence[str]) -> np.ndarray:
    """The picture with masks, boxes and "label score", a colour for each class.

    Args:
        image: RGB uint8 (H, W, 3).
        instances: of :class:`Predictor`.
        names: of the classes.
    """
    classes = instances.pred_classes.tolist()
    if not classes:
        return image
    # The best detection is drawn last, on top of the others.
    order = instances.scores.argsort().tolist()
    colours = [_COLOURS[classes[index] % len(_COLOURS)] for index in order]
    labels = [f"{names[classes[index]]} {instances.scores[index]:.2f}" for index in order]
    picture = torch.from_numpy(np.array(image.transpose(2, 0, 1)))
    if instances.has("pred_masks"):
        picture = draw_segmentation_masks(picture, instances.pred_masks[order].bool(), alpha=_OPACITY, colors=colours)
    picture = draw_bounding_boxes(picture, instances.pred_boxes.tensor[order], labels=labels, colors=colours, width=2)
    return picture.permute(1, 2, 0).numpy()


def predict(predictor: Predictor, images: dict[str, Path], output: Path) -> list[str]:
    """Write ``pictures/``, ``predictions.json`` (COCO results) and ``images.json`` (their ids, files and sizes) into ``output``.

    Args:
        predictor: the detector.
        images: of :func:`find_images`.
        output: folder; made where absent.

    Returns:
        a line for each image that could not be read.
    """
    results, listing, bad = [], [], []
    for image_id, (name, path) in enumerate(tqdm(images.items(), unit="image"), start=1):
        try:
            image = d2.detection_utils.read_image(str(path), "RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            # PIL raises a SyntaxError for some broken files.
            bad.append(f"{path}: {error}")
            tqdm.write(f"skipped {bad[-1]}")
            continue
        instances = predictor(image)
        listing.append({"id": image_id, "file_name": str(path), "height": image.shape[0], "width": image.shape[1]})
        results += to_coco_results(instances, image_id, predictor.categories)
        target = output / "pictures" / (name if Path(name).suffix.lower() == ".jpg" else f"{name}.jpg")
        target.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(draw_detections(image, instances, predictor.categories.names))
        write_atomically(target, lambda file, picture=picture: picture.save(file, "JPEG", quality=92))
    output.mkdir(parents=True, exist_ok=True)
    for file_name, content in (("predictions.json", results), ("images.json", listing)):
        write_atomically(output / file_name, lambda file, content=content: file.write(json.dumps(content).encode()))
    logger.info("%d detections in %d images: %s", len(results), len(listing), output)
    return bad
