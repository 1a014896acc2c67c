"""A small random COCO data set, and predictions for it, for every backend; in a module, because spawned processes import it."""

import json
import os
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from pycocotools import mask as coco_mask

from detcon_d2.engine.launch import leave_process_group
from tests.detectron2_subset.conftest import Backend

HEIGHT, WIDTH = 170, 220
CATEGORIES = {3: "cup", 5: "dog", 9: "tree", 12: "never annotated"}
NAME = "detcon_test_coco_dataset"


def write_world(folder: Path, images: int = 8, seed: int = 0) -> Path:
    """Write ``instances.json``: polygons, RLE and crowds, of all three size classes, in three of four categories, one image empty."""
    rng = np.random.default_rng(seed)
    annotations = []
    for image_id in range(10, 10 + 10 * (images - 1), 10):
        for _ in range(4):
            box = _random_box(rng)
            category = int(rng.choice([3, 5, 9]))
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "category_id": category, "iscrowd": 0, "area": box[2] * box[3]}
            annotation |= {"bbox": box, "segmentation": [_diamond(box)]}
            if rng.random() < 0.3:
                rle = coco_mask.encode(np.asfortranarray(_rectangle(box)))
                annotation |= {"iscrowd": int(rng.random() < 0.5), "segmentation": rle | {"counts": rle["counts"].decode()}}
            annotations.append(annotation)
    records = [{"id": 10 * i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH} for i in range(1, images + 1)]
    path = folder / "instances.json"
    categories = [{"id": id, "name": name} for id, name in CATEGORIES.items()]
    path.write_text(json.dumps({"images": records, "annotations": annotations, "categories": categories}))
    return path


def _random_box(rng: np.random.Generator) -> list[float]:
    width, height = rng.uniform(12, 165, 2)
    return [float(v) for v in (rng.uniform(0, WIDTH - width), rng.uniform(0, HEIGHT - height), width, height)]


def _diamond(box: list[float]) -> list[float]:
    x, y, w, h = box
    return [x, y + h / 2, x + w / 2, y, x + w, y + h / 2, x + w / 2, y + h]


def _rectangle(box: list[float]) -> np.ndarray:
    x, y, w, h = (round(value) for value in box)
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[y : y + h, x : x + w] = 1
    return mask


def perturbed(source: dict, image: dict, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Predictions for one image: its annotations moved by a few pixels, some of another class or missing, and random false ones."""
    height, width = image["height"], image["width"]
    contiguous = {category["id"]: i for i, category in enumerate(source["categories"])}
    found = {"boxes": [], "scores": [], "classes": [], "masks": []}
    for annotation in source["annotations"]:
        if annotation["image_id"] != image["id"] or rng.random() < 0.2:
            continue
        polygons = annotation["segmentation"]
        rle = (
            coco_mask.frPyObjects(polygons, height, width)
            if isinstance(polygons, list) or isinstance(polygons["counts"], list)
            else polygons
        )
        mask = coco_mask.decode(coco_mask.merge(rle) if isinstance(rle, list) else rle)
        x, y, w, h = np.array(annotation["bbox"]) + rng.normal(0, 5, 4)
        found["boxes"].append([x, y, x + max(w, 1), y + max(h, 1)])
        found["masks"].append(np.roll(mask, rng.integers(-9, 10, 2), axis=(0, 1)))
        found["scores"].append(rng.random())
        wrong = rng.random() < 0.1
        found["classes"].append(int(rng.integers(len(contiguous))) if wrong else contiguous[annotation["category_id"]])
    x, y, w, h = rng.uniform(5, [width / 2, height / 2, width / 2, height / 2])
    found["boxes"].append([x, y, x + w, y + h])
    found["masks"].append(rng.random((height, width)) < 0.2)
    found["scores"].append(rng.random())
    found["classes"].append(0)
    return {key: np.array(value) for key, value in found.items()}


def predict(json_file: Path, seed: int = 1) -> tuple[list[dict], list[dict[str, np.ndarray]]]:
    """Records with the image's id and size, and the perturbed predictions of each."""
    source = json.loads(Path(json_file).read_text())
    rng = np.random.default_rng(seed)
    inputs = [{"image_id": image["id"], "height": image["height"], "width": image["width"]} for image in source["images"]]
    return inputs, [perturbed(source, image, rng) for image in source["images"]]


def to_output(backend: Backend, record: dict, arrays: dict[str, np.ndarray], masks: bool = True, keep: slice = slice(None)) -> dict:
    """What a model of ``backend`` returns for one image."""
    structures = backend.get("structures")
    fields = {
        "pred_boxes": structures.Boxes(torch.tensor(arrays["boxes"][keep], dtype=torch.float32).reshape(-1, 4)),
        "scores": torch.tensor(arrays["scores"][keep], dtype=torch.float32),
        "pred_classes": torch.tensor(arrays["classes"][keep], dtype=torch.int64),
    }
    if masks:
        fields["pred_masks"] = torch.tensor(arrays["masks"][keep], dtype=torch.bool)
    return {"instances": structures.Instances((record["height"], record["width"]), **fields)}


def register(backend: Backend, json_file: Path) -> None:
    """Register the json as NAME and load it, which fills its metadata."""
    forget(backend)
    backend.get("data.datasets").register_coco_instances(NAME, {}, str(json_file), "/images")
    backend.get("data").DatasetCatalog.get(NAME)


def forget(backend: Backend) -> None:
    """Forget NAME."""
    backend.get("data").DatasetCatalog.pop(NAME, None)
    backend.get("data").MetadataCatalog.pop(NAME, None)


def evaluate_share(rank: int, backend: Backend, world_size: int, folder: str) -> None:
    """Evaluate this process' share of the images in a gloo group, and write what the evaluator returns to ``<rank>.json``."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", world_size=world_size, rank=rank)
    json_file = Path(folder) / "instances.json"
    register(backend, json_file)
    inputs, arrays = predict(json_file)
    evaluator = backend.get("evaluation").COCOEvaluator(NAME, output_dir=os.path.join(folder, "output"))
    shares = [[inputs[i], arrays[i]] for i in backend.get("data.samplers").InferenceSampler(len(inputs))]

    def model(batch: list) -> list[dict]:
        return [to_output(backend, batch[0], arrays[inputs.index(batch[0])])]

    results = backend.get("evaluation").inference_on_dataset(model, [[record] for record, _ in shares], evaluator)
    (Path(folder) / f"{rank}.json").write_text(json.dumps(results))
    leave_process_group()
    if backend.name == "detectron2":
        # It keeps the destroyed group in a cache, and gloo's threads may then abort the interpreter at its end.
        os._exit(0)
