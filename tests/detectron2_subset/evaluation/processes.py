"""The work of the processes of the distributed test, in a module of its own because spawned processes import it."""

import json
from pathlib import Path

import torch.distributed as dist
from torch import nn

from detcon_d2.engine.launch import leave_process_group
from tests.detectron2_subset.coco_dataset import NAME, predict, registered, to_output
from tests.detectron2_subset.conftest import Backend
from tests.detectron2_subset.utils.processes import leave_process


class Predictions(nn.Module):
    """A model that returns stored predictions: the input is a list of (record, arrays)."""

    def __init__(self, backend: Backend, **options: object) -> None:
        super().__init__()
        self._backend, self._options = backend, options

    def forward(self, batch: list) -> list[dict]:
        return [to_output(self._backend, one["record"], one["arrays"], **self._options) for one in batch]


def batches(json_file: Path) -> list[list[dict]]:
    """One batch per image of the data set."""
    return [[{"image_id": record["image_id"], "record": record, "arrays": arrays}] for record, arrays in zip(*predict(json_file))]


def evaluate_share(rank: int, backend: Backend, world_size: int, folder: str) -> None:
    """Evaluate this process's share of the images in a gloo group, and write the results to ``<rank>.json``."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", world_size=world_size, rank=rank)
    evaluation, json_file = backend.get("evaluation"), Path(folder) / "instances.json"
    with registered(backend, json_file):
        evaluator = evaluation.COCOEvaluator(NAME, output_dir=f"{folder}/output")
        everything = batches(json_file)
        share = [everything[i] for i in backend.get("data.samplers").InferenceSampler(len(everything))]
        results = evaluation.inference_on_dataset(Predictions(backend), share, evaluator)
    (Path(folder) / f"{rank}.json").write_text(json.dumps(results))
    leave_process_group()
    leave_process(backend)
