"""The command lines of an experiment: label maps, pretraining, conversion, kNN, and fine-tuning with the settings that were chosen."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from detcon_d2.engine.setup import check_pretraining_config, load_config
from detcon_d2.evaluation.labelled import list_labelled
from detcon_d2.experiment.plan import Budget, Method, Plan, Words
from detcon_d2.io.annotated.dataset import AnnotatedData
from detcon_d2.io.annotated.read import read_annotated
from detcon_d2.io.annotated.write import write_coco
from detcon_d2.quickstart.commands import Chain, Command
from detcon_d2.quickstart.results import Evaluation, read_evaluation
from detcon_d2.recipe.budget import calibration_words, iteration_seconds

NO_BUDGET = Budget()
"""Of a method that is not pretrained here."""


class Setting(NamedTuple):
    """What has a row in the table: a method, the length of its pretraining, the fraction of the labels."""

    method: Method
    budget: Budget
    fraction: float

    def title(self) -> str:
        """The setting in words."""
        return f"{self.method.name}{self.budget.text()}, {self.fraction:.0%} of the labels"


class Labels(NamedTuple):
    """Specs of the images that the sweep trains on, and of those that it is judged by."""

    train: str
    validation: str


class Experiment(NamedTuple):
    """A plan, SOLVER.IMS_PER_BATCH of each pretrained method by its name, and the labels of the sweep (None: no sweep)."""

    plan: Plan
    batches: dict[str, int]
    labels: Labels | None

    def settings(self) -> list[Setting]:
        """All rows, in the order of the plan."""
        return [
            Setting(method, budget, fraction)
            for method in self.plan.methods.values()
            for budget in (self.plan.budgets if method.config else (NO_BUDGET,))
            for fraction in self.plan.fractions
        ]

    def label_maps(self) -> Iterator[Command]:
        """Label maps of each data set that is used with each kind of regions."""
        pairs = {self._regions(method): method for method in self.plan.methods.values() if method.config and method.regions}
        for folder, method in pairs.items():
            words = ("tools/generate_masks.py", method.images, str(folder), *self.plan.regions[method.regions])
            yield Command(f"label maps: {folder.name}", words, self.plan.output / f"stages/{folder.name}.json", folder)

    def calibrations(self) -> list[Command]:
        """The first iterations of each pretraining, where the plan has its seconds: how long does one take?"""
        if not any(budget.seconds for budget in self.plan.budgets):
            return []
        return [self._calibration(method) for method in self.plan.methods.values() if method.config]

    def iterations(self, method: Method, budget: Budget) -> int:
        """Of its pretraining. For seconds, :meth:`calibrations` have run."""
        if budget.images:
            return budget.images // self.batches[method.name]
        return max(1, int(budget.seconds / iteration_seconds(self._calibration(method).product.parent)))

    def images_seen(self, setting: Setting) -> int:
        """By its pretraining here."""
        return self.iterations(setting.method, setting.budget) * self.batches[setting.method.name] if setting.method.config else 0

    def pretraining(self, method: Method, budget: Budget, seed: int) -> Chain:
        """Pretraining and conversion; nothing for a method without a config."""
        if not method.config:
            return ()
        folder = self._run(method, budget, seed)
        train = (
            *("tools/train_net.py", "--config-file", method.config, "--resume", *self.inputs(method)),
            *("DETCON.SOLVER.EPOCHS", "0.0", "SOLVER.MAX_ITER", str(self.iterations(method, budget)), "SEED", str(seed)),
            *("OUTPUT_DIR", str(folder / "pretrain"), *method.options),
        )
        weights, backbone = folder / "pretrain/model_final.pth", folder / "backbone.pth"
        convert = ("tools/convert_to_d2.py", str(weights), str(backbone), "--overwrite")
        return (
            Command(f"pretraining: {method.name}{budget.text()}, seed {seed}", train, folder / "stages/pretrain.json", weights),
            Command("conversion to a Detectron2 backbone", convert, folder / "stages/convert.json", backbone),
        )

    def knn(self, method: Method, budget: Budget, seed: int) -> Command:
        """kNN by the frozen encoder; of random initialisation by that of the first method that is pretrained. The plan has ``knn``."""
        train, test, size = self.plan.knn
        folder, weights = self._run(method, budget, seed), method.weights.replace("{seed}", str(seed))
        drawn: tuple[str, ...] = ()
        if method.config:
            weights = str(folder / "pretrain/model_final.pth")
        elif not weights:
            config = next(one.config for one in self.plan.methods.values() if one.config)
            weights, drawn = "random", ("--config-file", config, "--seed", str(seed))
        words = (
            *("tools/evaluate_encoder.py", weights, train, test, "--output", str(folder / "knn"), "--size", str(size), *drawn),
            "--protocol",
        )
        return Command(f"kNN: {method.name}{budget.text()}, seed {seed}", words, folder / "stages/knn.json", folder / "knn/evaluation.json")

    def knn_top1(self, setting: Setting, seed: int) -> float | None:
        """Of 20 neighbours, in percent; None where it has not run."""
        if self.plan.knn is None or not (path := self.knn(setting.method, setting.budget, seed).product).is_file():
            return None
        return json.loads(path.read_text(encoding="utf-8"))["knn"][0]["top1"]

    def sweep(self, setting: Setting) -> list[Command]:
        """A fine-tuning with each candidate of the sweep, from the weights of the first seed; none where there is one candidate only."""
        if self.labels is None:
            return []
        seed, (train, validation) = self.plan.seeds[0], self.labels
        folder = self._run(setting.method, setting.budget, seed) / f"sweep-{setting.fraction:g}"
        return [
            self._fine_tuning(setting, seed, folder / str(index), words, train, validation) for index, words in enumerate(self.plan.sweep)
        ]

    def choice(self, setting: Setting) -> tuple[Words, list[float]]:
        """The candidate with the highest box AP on the validation images, and the box AP of all. The sweep has run."""
        if self.labels is None:
            return self.plan.sweep[0], []
        found = [read_evaluation(command.product.parent).ap("bbox") for command in self.sweep(setting)]
        return self.plan.sweep[max(range(len(found)), key=found.__getitem__)], found

    def fine_tuning(self, setting: Setting, seed: int) -> Command:
        """The detector that counts: on the fraction of all labels, with the chosen settings, tested on the test set."""
        folder = self._run(setting.method, setting.budget, seed) / f"detector-{setting.fraction:g}"
        return self._fine_tuning(setting, seed, folder, self.choice(setting)[0], self.plan.train, self.plan.test)

    def evaluation(self, setting: Setting, seed: int) -> Evaluation | None:
        """The metrics of :meth:`fine_tuning`; None as long as it has not finished."""
        folder = self._run(setting.method, setting.budget, seed) / f"detector-{setting.fraction:g}"
        return read_evaluation(folder) if (folder / "results.json").is_file() else None

    def backbone(self, setting: Setting, seed: int) -> str:
        """The weights at the start of fine-tuning; empty for random initialisation."""
        if setting.method.config:
            return str(self._run(setting.method, setting.budget, seed) / "backbone.pth")
        return setting.method.weights.replace("{seed}", str(seed))

    def has_weights(self, setting: Setting, seed: int) -> bool:
        """Whether fine-tuning can start."""
        return not (path := self.backbone(setting, seed)) or Path(path).is_file()

    def _fine_tuning(self, setting: Setting, seed: int, folder: Path, chosen: Words, train: str, test: str) -> Command:
        words = (
            *("tools/train_net.py", "--config-file", self.plan.detector, "--resume", "MODEL.WEIGHTS", self.backbone(setting, seed)),
            *("DATASETS.TRAIN", repr((train,)), "DATASETS.TEST", repr((test,)), *chosen),
            *("DETCON.FINETUNE.LABEL_FRACTION", repr(setting.fraction), "DETCON.FINETUNE.LABEL_SEED", str(seed)),
            *("SEED", str(seed), "OUTPUT_DIR", str(folder)),
        )
        title = f"detector from {setting.title()}, seed {seed} {' '.join(chosen)}".rstrip()
        return Command(title, words, folder.parent / f"stages/{folder.name}.json", folder / "results.json")

    def _calibration(self, method: Method) -> Command:
        folder = self.plan.output / method.name / "calibration"
        words = calibration_words(method.config, folder, (*self.inputs(method), *method.options))
        title = f"calibration: {method.name}"
        return Command(title, words, folder.with_name("stages") / "calibration.json", folder / "metrics.json")

    def inputs(self, method: Method) -> Words:
        """Options of its pretraining for images and regions."""
        regions = ("DETCON.MASKS.ROOTS", repr((str(self._regions(method)),))) if method.regions else ()
        return ("DATASETS.TRAIN", repr((method.images,)), *regions)

    def _run(self, method: Method, budget: Budget, seed: int) -> Path:
        length = "-".join(f"{value}-{unit}" for unit, value in budget._asdict().items() if value)
        return self.plan.output / method.name / (length or "as-it-is") / f"seed_{seed}"

    def _regions(self, method: Method) -> Path:
        same = method.images == next(one.images for one in self.plan.methods.values() if one.regions == method.regions)
        return self.plan.output / "regions" / (method.regions if same else f"{method.regions}-{method.name}")


def open_experiment(plan: Plan) -> Experiment:
    """Look at the data sets, and divide the labels for a sweep. Writes ``labels/`` into the output folder.

    Raises ValueError: a config or a data set that cannot be read, a budget below a batch, or weights that do not exist.
    """
    train, *_ = [read_annotated(spec) for spec in (plan.train, plan.test, plan.validation) if isinstance(spec, str)]
    for spec, use in zip(plan.knn or (), ("train", "test")):
        list_labelled(spec, use)
    if plan.knn and not any(method.config for method in plan.methods.values()):
        raise ValueError("knn: no method is pretrained; expected at least one, whose encoder the random ones have too")
    names = [method.weights.replace("{seed}", str(seed)) for method in plan.methods.values() if method.weights for seed in plan.seeds]
    if absent := [name for name in names if not Path(name).is_file()]:
        raise ValueError(f"weights: there is no file {', '.join(absent)}; expected backbones that convert_to_d2 has written")
    pretrained = [method for method in plan.methods.values() if method.config]
    labels = divide_labels(plan, train) if len(plan.sweep) > 1 else None
    experiment = Experiment(plan, {}, labels)
    batches = {method.name: _checked_batch(method, experiment.inputs(method)) for method in pretrained}
    budgets = [budget.images for budget in plan.budgets if budget.images]
    if small := [f"{budget} (of {name})" for budget in budgets for name, batch in batches.items() if budget < batch]:
        raise ValueError(f"budgets: found {', '.join(small)}; expected at least a batch: {max(batches.values())} images")
    return experiment._replace(batches=batches)


def _checked_batch(method: Method, inputs: Words) -> int:
    """SOLVER.IMS_PER_BATCH of its pretraining, whose config is checked here, before hours of other runs."""
    try:
        cfg = load_config(method.config, [*inputs, *method.options])
        check_pretraining_config(cfg, world_size=1)
    except ValueError as error:
        raise ValueError(f"methods: {method.name}: {error}") from None
    return cfg.SOLVER.IMS_PER_BATCH


def divide_labels(plan: Plan, data: AnnotatedData) -> Labels:
    """The plan's validation set, or evenly spaced images of the training set ``data``. Raises ValueError: too few for both."""
    if isinstance(plan.validation, str):
        return Labels(plan.train, plan.validation)
    every = round(1 / plan.validation)
    parts = [[one for index, one in enumerate(data.records) if (index % every == every - 1) == chosen] for chosen in (False, True)]
    if not all(any(record["annotations"] for record in part) for part in parts):
        raise ValueError(f"{plan.train}: {len(data.records)} images are too few to keep {plan.validation:g} of them for the sweep")
    names = [
        write_coco(AnnotatedData(data.name, part, data.categories), plan.output / f"labels/{name}.json")
        for name, part in zip(("train", "validation"), parts, strict=True)
    ]
    return Labels(*names)
