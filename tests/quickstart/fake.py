"""A folder as ``make quickstart`` leaves it, in a second: real images and a real checkpoint, made-up results."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from detcon_d2 import d2
from detcon_d2.checkpoint import DetConCheckpointer, pretraining_metadata
from detcon_d2.checkpoint.metadata import CheckpointMetadata
from detcon_d2.engine import load_config
from detcon_d2.quickstart.quickstart import quickstart_runs
from detcon_d2.quickstart.shapes import ShapesConfig, generate_shapes
from tests.conftest import REPO, tiny_opts

BOX_AP = {"random": 14.05, "detcon_b": 21.37}


def write_quickstart(folder: Path) -> Path:
    """Write the folder and return it."""
    shapes = ShapesConfig(size=48, num_unlabeled=2, num_train=3, num_val=6)
    paths = generate_shapes(folder / "data", shapes, workers=1, progress=False)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)).save(folder / "views.png")
    for run in quickstart_runs(folder):
        if run.pretrain is not None:
            write_pretraining(run.pretrain, paths["unlabeled"].images)
        write_finetuning(run.finetune, BOX_AP[run.method.name], paths["val"].annotations)
    write_record(folder / "stages/masks_fh.json", "regions", [f"tools/generate_masks.py {folder}/masks_fh"], 28.0)
    write_record(folder / "detcon_b/stages/pretrain.json", "pretraining", ["tools/train_net.py", "--config-file", "x.yaml"], 92.0)
    return folder


def write_pretraining(run: Path, images: Path) -> None:
    """Config, metrics and checkpoint of a tiny DetCon_B at random initialisation."""
    cfg = load_config(str(REPO / "configs/Base-DetCon.yaml"), tiny_opts(images, run, MODEL__RESNETS__NORM="BN", DETCON__HEAD_NORM="BN"))
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(cfg.dump())
    torch.manual_seed(5)
    metadata = CheckpointMetadata(pretraining_metadata(cfg, 2, "digest", {"method": "DetConB", "mask_parameters": "fh scale=300"}))
    DetConCheckpointer(d2.build_model(cfg), str(run), metadata=metadata).save("model_final", iteration=3)
    rows = [
        {"iteration": i, "loss_any": 3.0 - 0.1 * i, "learning/any": 0.1 * i, "learning/projection_std": 0.9, "time": 1.5} for i in range(4)
    ]
    (run / "metrics.json").write_text("\n".join(map(json.dumps, rows)))


def write_finetuning(run: Path, ap: float, annotations: Path) -> None:
    """Metrics, results, and predictions: every object is found, those of odd images under a wrong category."""
    content = json.loads(annotations.read_text())
    (run / "inference").mkdir(parents=True)
    per_category = {f"AP-{category['name']}": ap + category["id"] for category in content["categories"]}
    tasks = {"bbox": {"AP": ap, "AP50": 2 * ap, "AP75": None, **per_category}, "segm": {"AP": ap - 3, "AP50": 30.0, "AP75": 12.0}}
    results = {"backend": "subset 0.6", "iteration": 160, "seconds": 9.5, "results": {f"coco:{annotations}": tasks}}
    (run / "results.json").write_text(json.dumps(results))
    rows = [{"iteration": i, "total_loss": 4.0 - 0.02 * i, "bbox/AP": i / 20, "bbox/AP50": 77.7, "time": 0.8} for i in range(0, 160, 20)]
    (run / "metrics.json").write_text("\n".join(map(json.dumps, rows)))
    predictions = [
        {**{key: annotation[key] for key in ("image_id", "bbox", "segmentation")}, "score": 0.9 - 0.001 * annotation["id"]}
        | {"category_id": annotation["category_id"] if annotation["image_id"] % 2 else annotation["category_id"] % 8 + 1}
        for annotation in content["annotations"]
    ]
    (run / "inference/coco_instances_results.json").write_text(json.dumps(predictions))


def write_record(path: Path, title: str, words: list[str], seconds: float) -> None:
    """A command's record as the quickstart writes it."""
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"title": title, "command": words, "seconds": seconds}))
