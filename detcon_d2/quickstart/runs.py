"""The methods that are compared, and the commands that pretrain and fine-tune with them on a built-in data set."""

import json
from pathlib import Path
from typing import NamedTuple

import cv2

from detcon_d2.io.atomic import write_bytes_atomically
from detcon_d2.io.images import read_image
from detcon_d2.quickstart.commands import Chain, Command
from detcon_d2.quickstart.shapes import ShapesConfig, generate_shapes, split_paths

# Chosen by the number of regions, about 13 per image, without using annotations: the paper's scale 1000 leaves almost none at 128 px.
_FH = ("--scale", "300", "--sigma", "0.8", "--min-size", "100")


class Method(NamedTuple):
    """One way to initialise the backbone: its name for folders and command lines, and its title for tables and charts.

    Attributes:
        config: pretraining config, a file of ``configs/quickstart``; ``None``: random initialisation.
        masks: the generator of its label maps, "fh", "annotations" or "imported"; ``None``: as config and options specify.
        crops: it is trained on annotated regions with their categories, instead of on images. Two regions per image, one view of each, are
            as many views as two of each image, so equal epochs are equal budgets.
        options: config options (KEY VALUE ...) of its pretraining.
        optional: runs only when it is named on the command line.
    """

    name: str
    title: str
    config: str | None = None
    masks: str | None = None
    crops: bool = False
    options: tuple[str, ...] = ()
    optional: bool = False


def _grid(size: int) -> tuple[str, ...]:
    return ("DETCON.MASKS.SOURCE", "grid", "DETCON.MASKS.GRID", str(size))


PEERS = ("SimCLR", "BYOL", "MoCo", "SwAV", "DINO", "PixPro", "DenseCL")
"""Methods that need no regions and no labels."""
PRETEXT = (
    Method("rotation", "Rotation", "rotation_R_18.yaml", optional=True),
    Method("relative_position", "Relative position", "relative_position_R_18.yaml", optional=True),
    Method("jigsaw", "Jigsaw", "jigsaw_R_18.yaml", optional=True),
    Method("damaged_jigsaw", "Damaged jigsaw", "damaged_jigsaw_R_18.yaml", optional=True),
    Method("colorization", "Colorization", "colorization_R_18.yaml", optional=True),
    Method("context_encoder", "Context encoder", "context_encoder_R_18.yaml", optional=True),
    Method("counting", "Counting", "counting_R_18.yaml", optional=True),
    Method("exemplar", "Exemplar", "exemplar_R_18.yaml", optional=True),
    Method("iic", "IIC", "iic_R_18.yaml", optional=True),
    Method("deep_cluster", "DeepCluster", "deep_cluster_R_18.yaml", optional=True),
    Method("egomotion", "Synthetic egomotion", "egomotion_R_18.yaml", optional=True),
    Method("cpc", "CPC", "cpc_R_18.yaml", optional=True),
    Method("multi_task", "Rotation, relative position and colorization", "multi_task_R_18.yaml", optional=True),
    Method("mask_prediction", "Mask prediction, FH regions", "mask_prediction_R_18.yaml", "fh", optional=True),
    Method("dim", "Deep InfoMax", "dim_R_18.yaml", optional=True),
    Method("amdim", "AMDIM", "amdim_R_18.yaml", optional=True),
)
"""Pretext tasks, which make their labels from the image."""
VIDEO = {
    "vince": Method("vince", "VINCE", "vince_R_18.yaml"),
    "shuffle_and_learn": Method("shuffle_and_learn", "Shuffle and Learn", "shuffle_and_learn_R_18.yaml"),
    "tracking_by_color": Method("tracking_by_color", "Tracking by colour", "tracking_by_color_R_18.yaml"),
    "mask_prediction_clips": Method(
        "mask_prediction_clips",
        "Mask prediction, objects of clips",
        "mask_prediction_R_18.yaml",
        "imported",
        options=("DETCON.MASK_PREDICTION.TARGET", "foreground"),
    ),
}
"""Methods on clips, by name; they are not compared with those on images."""

_METHODS = (
    Method("random", "random initialisation"),
    Method("detcon_b", "DetCon_B, FH regions", "detcon_b_R_18.yaml", "fh"),
    Method("detcon_s", "DetCon_S, FH regions", "detcon_s_R_18.yaml", "fh"),
    Method("grid", "DetCon_S, grid 1x1 (image-level contrast)", "detcon_s_R_18.yaml", options=_grid(1)),
    Method("detcon_b_kmeans", "DetCon_B, learned regions (k-means)", "detcon_b_R_18_kmeans.yaml", optional=True),
    Method("detcon_b_grid5", "DetCon_B, grid 5x5", "detcon_b_R_18.yaml", options=_grid(5), optional=True),
    Method("annotations", "DetCon_S, annotation masks (upper bound)", "detcon_s_R_18.yaml", "annotations"),
    Method("supervised", "supervised, categories of the regions", "supervised_R_18.yaml", crops=True, optional=True),
    *(Method(title.lower(), title, f"{title.lower()}_R_18.yaml", optional=True) for title in PEERS),
    *PRETEXT,
)
METHODS: dict[str, Method] = {method.name: method for method in _METHODS}
"""Every method, by name."""


REGION_SPLITS = ("unlabeled", "val")
"""The splits whose regions are cut out for kNN: neighbours, and what is classified."""


class Training(NamedTuple):
    """How every method is trained: the seed, epochs of the unlabelled images, and iterations of Mask R-CNN.

    The learning rate of Mask R-CNN drops at 70 and 90 % of its iterations. The config options (KEY VALUE ...) are those of every
    pretraining, after the options of its method.
    """

    seed: int
    pretrain_epochs: float
    finetune_iterations: int
    pretrain_options: tuple[str, ...] = ()


class Run(NamedTuple):
    """A method and the folder of its results: ``pretrain``, ``backbone.pth``, ``finetune`` and ``stages`` (records of commands).

    The output folder ``pretrain`` is None for random initialisation.
    """

    method: Method
    folder: Path

    @property
    def pretrain(self) -> Path | None:
        return None if self.method.config is None else self.folder / "pretrain"

    @property
    def finetune(self) -> Path:
        return self.folder / "finetune"


class DataSet(NamedTuple):
    """Built-in images and everything that is trained on them, in one absolute folder: ``data``, ``masks_*`` and a folder for each run."""

    folder: Path
    shapes: ShapesConfig

    def generate(self) -> None:
        """Write the images, or those that are missing. Raises ValueError if the folder holds other images."""
        generate_shapes(self.folder / "data", self.shapes)

    def run(self, method: Method, seed: int) -> Run:
        """The method's run with a seed, in a folder of its own."""
        return Run(method, self.folder / f"{method.name}-{seed}")

    def crops(self, split: str) -> Path:
        """The folder of the annotated regions of a split."""
        return self.folder / "crops" / split

    def cut_regions(self, split: str) -> None:
        """Cut the boxes of a split's annotations out of its images, as class folders ``CATEGORY/ANNOTATION.png``, unless that is done."""
        folder, paths = self.crops(split), split_paths(self.folder / "data", split)
        done = folder.with_name(f"{split}.done")
        if done.exists():
            return
        content = json.loads(paths.annotations.read_text(encoding="utf-8"))
        categories = {category["id"]: category["name"] for category in content["categories"]}
        images = {image["id"]: read_image(paths.images / image["file_name"]) for image in content["images"]}
        for annotation in content["annotations"]:
            x, y, width, height = map(int, annotation["bbox"])
            region = images[annotation["image_id"]][y : y + height, x : x + width]
            path = folder / categories[annotation["category_id"]] / f"{annotation['id']:06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes_atomically(path, cv2.imencode(".png", cv2.cvtColor(region, cv2.COLOR_RGB2BGR))[1].tobytes())
        done.touch()

    def masks(self, generator: str) -> Command:
        """Label maps of the unlabelled images by "fh" or "annotations"."""
        output, flags = self.folder / f"masks_{generator}", _FH if generator == "fh" else ()
        words = ("tools/generate_masks.py", self._unlabeled(generator), str(output), "--generator", generator, *flags, "--workers", "2")
        return Command(f"regions: {generator}", words, self.folder / f"stages/masks_{generator}.json", output)

    def sheet(self, method: Method) -> Command:
        """A picture of images, regions and views as the method's pretraining uses them."""
        output = self.folder / "views.png"
        words = ("tools/visualize_views.py", "--config-file", f"configs/quickstart/{method.config}", "--output", str(output))
        return Command("sheet of views and regions", (*words, *self._inputs(method)), self.folder / "stages/views.json", output)

    def pretraining(self, run: Run, training: Training) -> Chain:
        """Pretraining and conversion; nothing for random initialisation."""
        if run.pretrain is None:
            return ()
        weights, backbone, stages = run.pretrain / "model_final.pth", run.folder / "backbone.pth", run.folder / "stages"
        train = (
            *("tools/train_net.py", "--config-file", f"configs/quickstart/{run.method.config}", "--resume", *self._inputs(run.method)),
            *("DETCON.SOLVER.EPOCHS", str(training.pretrain_epochs), "SEED", str(training.seed), "OUTPUT_DIR", str(run.pretrain)),
            *training.pretrain_options,
        )
        convert = ("tools/convert_to_d2.py", str(weights), str(backbone), "--overwrite")
        return (
            Command(f"pretraining: {run.method.title}", train, stages / "pretrain.json", weights),
            Command("conversion to a Detectron2 backbone", convert, stages / "convert.json", backbone),
        )

    def finetuning(self, run: Run, training: Training) -> Command:
        """Mask R-CNN with FPN on the labelled images; methods differ only in the weights at the start."""
        iterations, weights = training.finetune_iterations, "" if run.pretrain is None else str(run.folder / "backbone.pth")
        words = (
            *("tools/train_net.py", "--config-file", "configs/quickstart/mask_rcnn_R_18_FPN.yaml", "--resume"),
            *("MODEL.WEIGHTS", weights, "DATASETS.TRAIN", repr((self._coco("train"),)), "DATASETS.TEST", repr((self._coco("val"),))),
            *("SOLVER.MAX_ITER", str(iterations), "SOLVER.STEPS", repr((iterations * 7 // 10, iterations * 9 // 10))),
            *("SEED", str(training.seed), "OUTPUT_DIR", str(run.finetune)),
        )
        return Command(f"Mask R-CNN from {run.method.title}", words, run.folder / "stages/finetune.json", run.finetune / "results.json")

    def commands(self, method: Method, training: Training) -> Chain:
        """Pretraining, conversion and fine-tuning of the method's run with the training's seed."""
        run = self.run(method, training.seed)
        return (*self.pretraining(run, training), self.finetuning(run, training))

    def _coco(self, split: str) -> str:
        paths = split_paths(self.folder / "data", split)
        return f"coco:{paths.annotations},{paths.images}"

    def _unlabeled(self, masks: str | None) -> str:
        # Only the upper bound may use annotations.
        return self._coco("unlabeled") if masks == "annotations" else f"folder:{split_paths(self.folder / 'data', 'unlabeled').images}"

    def _inputs(self, method: Method) -> tuple[str, ...]:
        """Config options for the images and regions of pretraining."""
        roots = () if method.masks is None else ("DETCON.MASKS.ROOTS", repr((str(self.folder / f"masks_{method.masks}"),)))
        images = f"folder:{self.crops('unlabeled')}" if method.crops else self._unlabeled(method.masks)
        return ("DATASETS.TRAIN", repr((images,)), *roots, *method.options)
