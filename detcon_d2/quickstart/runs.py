"""The commands of the quickstart and of the evidence: one small world of images, and arms that differ in how their backbone began."""

from dataclasses import dataclass
from pathlib import Path

from detcon_d2.quickstart.commands import Chain, Stage
from detcon_d2.quickstart.shapes import ShapesConfig, generate_shapes, split_paths

# Chosen by the number of regions, about 13 an image, without a look at annotations: the paper's 1000 leaves almost none at 128 px.
_FH = ("--scale", "300", "--sigma", "0.8", "--min-size", "100")
_GRIDS = {"grid": "1", "grid5": "5"}


@dataclass(frozen=True)
class Row:
    """One way to begin: a row of the table of results.

    Attributes:
        name: folder and short name.
        title: for tables.
        config: file of ``configs/quickstart`` to pretrain with; ``None``: random initialisation.
        regions: "fh", "annotations" (label maps of that generator), "grid" (one region a view), "grid5" (5 x 5 cells of the image) or
            "kmeans" (as its config says); ``None`` without pretraining.
        optional: runs only where it is asked for by name.
    """

    name: str
    title: str
    config: str | None = None
    regions: str | None = None
    optional: bool = False


ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        Row("random", "random initialisation"),
        Row("detcon_b", "DetCon_B, FH regions", "detcon_b_R_18.yaml", "fh"),
        Row("detcon_s", "DetCon_S, FH regions", "detcon_s_R_18.yaml", "fh"),
        Row("grid", "DetCon_S, grid 1x1 (image-level contrast)", "detcon_s_R_18.yaml", "grid"),
        Row("detcon_b_kmeans", "DetCon_B, learned regions (k-means)", "detcon_b_R_18_kmeans.yaml", "kmeans", optional=True),
        Row("detcon_b_grid5", "DetCon_B, grid 5x5", "detcon_b_R_18.yaml", "grid5", optional=True),
        Row("annotations", "DetCon_S, annotation masks (upper bound)", "detcon_s_R_18.yaml", "annotations"),
    )
}
"""Every row that is compared, by name."""


@dataclass(frozen=True)
class Training:
    """How an arm trains, whatever its row.

    Attributes:
        pretrain_epochs: epochs of the unlabelled images.
        finetune_iterations: of Mask R-CNN; the learning rate drops at 70 and 90 % of them.
        pretrain_options: config options (KEY VALUE ...) of every pretraining, after those of its row.
    """

    pretrain_epochs: float
    finetune_iterations: int
    pretrain_options: tuple[str, ...] = ()


@dataclass(frozen=True)
class World:
    """A data set and everything that is trained on it, in one folder.

    Attributes:
        folder: absolute; ``data`` and ``masks_*`` lie in it, and a folder for each arm.
        shapes: what the images show.
    """

    folder: Path
    shapes: ShapesConfig

    def draw(self) -> None:
        """Draw the images, or what is missing of them.

        Raises:
            ValueError: the folder holds other images.
        """
        generate_shapes(self.folder / "data", self.shapes)

    def masks(self, generator: str) -> Chain:
        """Label maps of the unlabelled images by "fh" or "annotations"."""
        output, flags = self.folder / f"masks_{generator}", _FH if generator == "fh" else ()
        command = ("tools/generate_masks.py", self._unlabeled(generator), str(output), "--generator", generator, *flags, "--workers", "2")
        return Chain(f"masks_{generator}", (Stage(f"regions: {generator}", command, self._record(f"masks_{generator}"), output),))

    def sheet(self, row: Row) -> Chain:
        """A picture of images, regions and views as the row's pretraining sees them."""
        output = self.folder / "views.png"
        command = ("tools/visualize_views.py", "--config-file", f"configs/quickstart/{row.config}", "--output", str(output))
        return Chain("views", (Stage("sheet of views and regions", (*command, *self._images(row)), self._record("views"), output),))

    def arm_folder(self, row: Row, seed: int | None) -> Path:
        """Where an arm lies: its row's name, with the seed where there are several."""
        return self.folder / (row.name if seed is None else f"{row.name}-{seed}")

    def pretraining(self, row: Row, seed: int, training: Training, folder: Path) -> tuple[Stage, ...]:
        """Pretraining and conversion of an arm; nothing for random initialisation."""
        if row.config is None:
            return ()
        output, backbone = folder / "pretrain", folder / "backbone.pth"
        train = (
            *("tools/train_net.py", "--config-file", f"configs/quickstart/{row.config}", "--resume", *self._images(row)),
            *("DETCON.SOLVER.EPOCHS", str(training.pretrain_epochs), "SEED", str(seed), "OUTPUT_DIR", str(output)),
            *training.pretrain_options,
        )
        convert = ("tools/convert_to_d2.py", str(output / "model_final.pth"), str(backbone), "--overwrite")
        return (
            Stage(f"pretraining: {row.title}", train, folder / "stages/pretrain.json", output / "model_final.pth"),
            Stage("conversion to a Detectron2 backbone", convert, folder / "stages/convert.json", backbone),
        )

    def finetuning(self, row: Row, seed: int, training: Training, folder: Path) -> Stage:
        """Mask R-CNN with FPN on the labelled images, the same for every row but for the weights it starts from."""
        output, iterations = folder / "finetune", training.finetune_iterations
        weights = "" if row.config is None else str(folder / "backbone.pth")
        command = (
            *("tools/train_net.py", "--config-file", "configs/quickstart/mask_rcnn_R_18_FPN.yaml", "--resume"),
            *("MODEL.WEIGHTS", weights, "DATASETS.TRAIN", repr((self._coco("train"),)), "DATASETS.TEST", repr((self._coco("val"),))),
            *("SOLVER.MAX_ITER", str(iterations), "SOLVER.STEPS", repr((iterations * 7 // 10, iterations * 9 // 10))),
            *("SEED", str(seed), "OUTPUT_DIR", str(output)),
        )
        return Stage(f"Mask R-CNN from {row.title}", command, folder / "stages/finetune.json", output / "results.json")

    def arm(self, row: Row, seed: int, training: Training) -> Chain:
        """Pretraining, conversion and fine-tuning of one arm with one seed."""
        folder = self.arm_folder(row, seed)
        stages = (*self.pretraining(row, seed, training, folder), self.finetuning(row, seed, training, folder))
        return Chain(f"{self.folder.name}/{folder.name}", stages)

    def _record(self, name: str) -> Path:
        return self.folder / "stages" / f"{name}.json"

    def _coco(self, split: str) -> str:
        paths = split_paths(self.folder / "data", split)
        return f"coco:{paths.annotations},{paths.images}"

    def _unlabeled(self, regions: str) -> str:
        # Only the upper bound may know where the objects are.
        return self._coco("unlabeled") if regions == "annotations" else f"folder:{split_paths(self.folder / 'data', 'unlabeled').images}"

    def _images(self, row: Row) -> tuple[str, ...]:
        train = ("DATASETS.TRAIN", repr((self._unlabeled(row.regions),)))
        if row.regions == "kmeans":
            return train
        if row.regions in _GRIDS:
            return (*train, "DETCON.MASKS.SOURCE", "grid", "DETCON.MASKS.GRID", _GRIDS[row.regions])
        return (*train, "DETCON.MASKS.ROOTS", repr((str(self.folder / f"masks_{row.regions}"),)))
