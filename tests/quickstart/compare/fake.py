"""Folders as runs leave them: small files with made-up numbers."""

import json
from pathlib import Path

import torch
import yaml

BUDGET = {
    "images_seen": 1280,
    "forwards_trained_per_image": 2.0,
    "forwards_no_grad_per_image": 0.0,
    "forwards_trained": 2560.0,
    "forwards_no_grad": 0.0,
    "seconds": 99.5,
    "device": "1 x cpu",
    "parameters_encoder": 23_500_000,
    "parameters_heads": 4_200_000,
}
ORIGIN = {
    "method": "SimCLR",
    "encoder": "online in encoder.*",
    "mask_parameters": "none",
    "datasets": ["folder:/photos"],
    "dataset_size": 640,
    "dataset_digest": "0123456789abcdef",
    "ims_per_batch": 64,
    "iterations": 20,
    "max_iter": 20,
    "epochs": 2.0,
}


def write_checkpoint(path: Path, metadata: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": {}, "metadata": metadata}, path)


def write_metrics(folder: Path, rows: list[dict]) -> None:
    (folder / "metrics.json").write_text("\n".join(map(json.dumps, rows)))


def write_config(folder: Path, architecture: str, **settings: object) -> None:
    config = {"MODEL": {"META_ARCHITECTURE": architecture}, "OUTPUT_DIR": str(folder), "SEED": 0, **settings}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def write_pretraining(folder: Path, final: bool = True, settings: dict | None = None, **metadata: object) -> dict:
    """A pretraining of 20 iterations whose loss ends in 1.5; returns its metadata."""
    found = ORIGIN | BUDGET | metadata
    write_checkpoint(folder / ("model_final.pth" if final else "model_0000009.pth"), found)
    write_config(folder, found["method"], **(settings or {}))
    rows = [
        {"iteration": i, f"loss_{found['method'].lower()}": 3.0 - (i + 1) * 0.075, "learning/projection_std": 0.9, "seconds": 5.0 * (i + 1)}
        | {"probe/accuracy": i / 40, "loss_probe": 2.0}
        for i in range(1, 20, 2)
    ]
    write_metrics(folder, rows)
    return found


def write_finetuning(folder: Path, origin: dict, ap: float = 30.25, data_set: str = "coco:val", **metadata: object) -> None:
    """A fine-tuning of 8 iterations that started from what a converter made of a pretraining with this metadata."""
    converted = {key: value for key, value in origin.items() if key != "encoder"} | ({"encoder": "online", "style": "x"} if origin else {})
    own = {"method": "GeneralizedRCNN", "protocol": "standard", "weights": "b.pkl" if origin else "", "label_fraction": 1.0}
    own |= {"ims_per_batch": 4, "iterations": 8, "max_iter": 8, "dataset_digest": "f00", "dataset_size": 100}
    write_checkpoint(folder / "model_final.pth", own | {f"pretrained_{key}": value for key, value in converted.items()} | metadata)
    write_config(folder, "GeneralizedRCNN")
    rows = [{"iteration": i, "total_loss": 4.0 - i / 10, "seconds": float(i + 1)} for i in range(8)]
    write_metrics(folder, [*rows, {"iteration": 4, "bbox/AP": 10.0}, {"iteration": 8, "bbox/AP": ap}])
    results = {data_set: {"bbox": {"AP": ap, "AP50": None}, "segm": {"AP": ap - 5}}}
    content = {"backend": "subset 0.6", "iteration": 8, "protocol": own["protocol"], "weights": own["weights"], "results": results}
    (folder / "results.json").write_text(json.dumps(content))


def write_evaluation(folder: Path, origin: dict, knn: float = 61.5, size: int = 224) -> None:
    """kNN and a probe of the encoder of a pretraining with this metadata."""
    folder.mkdir(parents=True)
    content = {"weights": "model_final.pth", "metadata": origin | {"encoder": "online", "style": "detcon_d2"}, "input": {"size": size}}
    content |= {split: {"spec": f"folder:/{split}", "images": 10} for split in ("train", "test")}
    content |= {"knn": [{"k": 20, "top1": knn}, {"k": 200, "top1": 1.0}], "probe": [{"protocol": {"name": "moco"}, "top1": 70.0}]}
    (folder / "evaluation.json").write_text(json.dumps(content))
