"""Photographs of COCO through all tools: regions, pretraining, conversion, fine-tuning, AP; on every backend that is present."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from detcon_d2 import d2
from tests.conftest import PATIENCE, REPO, TINY
from tests.detectors import NARROW, SHORT, flat
from tests.engine.runs import output_of
from tests.prepared import PreparedTool

BACKENDS = ["subset", *(["detectron2"] if importlib.util.find_spec("detectron2") else [])]
# Low scores are kept, because a detector has no others after three iterations.
DETECTOR = (
    NARROW
    | SHORT
    | {"MODEL.ROI_HEADS.NUM_CLASSES": 80, "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0, "SOLVER.IMS_PER_BATCH": 2}
    | {"SOLVER.MAX_ITER": 3, "INPUT.MASK_FORMAT": "polygon", "INPUT.MIN_SIZE_TRAIN": "(160,)", "INPUT.MIN_SIZE_TEST": 160}
)


def run(backend: str, tool: str, *words: object) -> str:
    command = [str(REPO / "tools" / tool), *map(str, words)]
    if backend == d2.BACKEND:
        return output_of(PreparedTool(command, os.environ))
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPO), *sys.path]), "OMP_NUM_THREADS": "1", "DETCON_D2_BACKEND": backend}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    result = subprocess.run([sys.executable, *command], env=environ, timeout=PATIENCE, **pipes)
    assert result.returncode == 0, result.stdout[-3000:]
    return result.stdout


@pytest.fixture(scope="module")
def spec(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """24 annotated images of coco_subset, those with crowds first."""
    whole = json.loads((shared_dir / "data/coco_subset/instances.json").read_text())
    crowded = {annotation["image_id"] for annotation in whole["annotations"] if annotation["iscrowd"]}
    annotated = {annotation["image_id"] for annotation in whole["annotations"]}
    images = sorted((image for image in whole["images"] if image["id"] in annotated), key=lambda image: image["id"] not in crowded)[:24]
    kept = {image["id"] for image in images}
    part = whole | {"images": images, "annotations": [entry for entry in whole["annotations"] if entry["image_id"] in kept]}
    path = tmp_path_factory.mktemp("coco") / "instances.json"
    path.write_text(json.dumps(part))
    return f"coco:{path},{shared_dir / 'data/coco_subset/images'}"


@pytest.fixture(scope="module")
def backbone(spec: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone that was pretrained on regions of the annotations, and converted."""
    folder = tmp_path_factory.mktemp("pretraining")
    run("subset", "generate_masks.py", spec, folder / "masks", "--generator", "annotations", "--workers", 1)
    values = TINY | {"DATASETS.TRAIN": (spec,), "DETCON.MASKS.SOURCE": "files", "DETCON.MASKS.ROOTS": (str(folder / "masks"),)}
    run("subset", "train_net.py", "--config-file", REPO / "configs/Base-DetCon.yaml", *flat(values | {"OUTPUT_DIR": folder / "run"}))
    output = run("subset", "convert_to_d2.py", folder / "run/model_final.pth", folder / "backbone.pkl")
    assert "agree" in output
    return folder / "backbone.pkl"


@pytest.fixture(scope="module")
def runs(spec: str, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of fine-tuning on every backend from the same backbone."""
    folder, config = tmp_path_factory.mktemp("finetuning"), REPO / "configs/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_standard_1x.yaml"
    for backend in BACKENDS:
        values = DETECTOR | {"MODEL.WEIGHTS": backbone, "DATASETS.TRAIN": (spec,), "DATASETS.TEST": (spec,)}
        log = run(backend, "train_net.py", "--config-file", config, *flat(values | {"OUTPUT_DIR": folder / backend}))
        assert "newly initialised, as expected: FPN, RPN, box head, mask head" in log
    return {backend: folder / backend for backend in BACKENDS}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_pretrained_backbone_becomes_a_detector_with_an_ap(runs: dict[str, Path], backend: str):
    results = json.loads((runs[backend] / "results.json").read_text())
    assert results["backend"].startswith(backend)
    (tasks,) = results["results"].values()
    assert tasks["bbox"]["AP"] >= 0 and tasks["segm"]["AP"] >= 0
    losses = [json.loads(line) for line in (runs[backend] / "metrics.json").read_text().splitlines()]
    assert sum("total_loss" in row for row in losses) == 3


def test_the_same_detector_has_the_same_ap_on_both_backends(runs: dict[str, Path], spec: str, tmp_path: Path):
    if "detectron2" not in runs:
        pytest.skip("compares the subset with Detectron2, which is not installed (make test-detectron2 D2=path)")
    found = []
    for backend in BACKENDS:
        values = {"MODEL.WEIGHTS": runs["subset"] / "model_final.pth", "OUTPUT_DIR": tmp_path / backend}
        run(backend, "train_net.py", "--config-file", runs["subset"] / "config.yaml", "--eval-only", *flat(values))
        (tasks,) = json.loads((tmp_path / backend / "results.json").read_text())["results"].values()
        found.append([tasks[task][metric] for task in ("bbox", "segm") for metric in ("AP", "AP50", "AP75")])
    assert found[0] == pytest.approx(found[1], abs=0.01)
