"""What an experiment compares: the YAML file of its data, methods, seeds, budgets and numbers of labels."""

import difflib
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from detcon_d2.io.specs import canonical_spec, is_dataset_spec
from detcon_d2.masks.generators.registry import REGION_GENERATOR_REGISTRY
from detcon_d2.model_zoo import find_config

VALIDATION = 0.2
"""Share of the annotated images on which the settings of fine-tuning are compared, where the plan has no other."""
Words = tuple[str, ...]
"""KEY VALUE ... of a config."""


class Method(NamedTuple):
    """One way to initialise the detector's backbone.

    Attributes:
        name: for folders and tables.
        config: absolute path of its pretraining config; empty: no pretraining.
        weights: a converted backbone that another program trained; ``{seed}`` in it is replaced. Empty with a config, and for random
            initialisation.
        images: spec of its unlabelled images.
        regions: name of the label maps, a key of ``Plan.regions``; empty: as the config specifies.
        options: of its pretraining.
    """

    name: str
    config: str
    weights: str
    images: str
    regions: str
    options: Words


class Budget(NamedTuple):
    """The length of a pretraining: images that it sees, or the seconds of its iterations, whose number a calibration decides. The other of
    the two is 0, and both where nothing is pretrained."""

    images: int = 0
    seconds: int = 0

    def text(self) -> str:
        """In words, after a name."""
        return "".join(f", {value:,} {unit}" for unit, value in zip(("images seen", "seconds"), self, strict=True) if value)


class Neighbours(NamedTuple):
    """kNN of the frozen encoders: specs of class folders, and the side of the images in pixels."""

    train: str
    test: str
    size: int


class Plan(NamedTuple):
    """The experiment; all paths are absolute.

    Attributes:
        output: the folder of everything that is written.
        train, test: specs of the detector's data sets.
        validation: a spec, or the share of the images of ``train`` that the sweep is judged by.
        detector: path of the detector's config, the same for all methods.
        baselines: names of the methods over which gains are computed.
        seeds: of pretraining, of the choice of labelled images and of fine-tuning.
        budgets: lengths of pretraining.
        fractions: of the annotated images that the detector is trained on.
        knn: None: no kNN.
        sweep: the settings of fine-tuning that every method chooses from; one empty setting: nothing is chosen.
        regions: the words of ``generate_masks`` by name.
        methods: by name.
    """

    output: Path
    train: str
    test: str
    validation: str | float
    detector: str
    baselines: tuple[str, ...]
    seeds: tuple[int, ...]
    budgets: tuple[Budget, ...]
    fractions: tuple[float, ...]
    knn: Neighbours | None
    sweep: tuple[Words, ...]
    regions: Mapping[str, Words]
    methods: Mapping[str, Method]


_PLAN_KEYS = {"output", "images", "train", "test", "validation", "detector", "baselines", "seeds", "budgets", "fractions", "sweep"}
_PLAN_KEYS |= {"regions", "methods", "seconds", "knn"}
_METHOD_KEYS = {"config", "weights", "images", "regions", "options"}


def read_plan(path: Path) -> Plan:
    """Read and check a plan. Raises ValueError, with found and expected, and OSError."""
    with path.open(encoding="utf-8") as file:
        try:
            content = yaml.safe_load(file)
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not plain YAML: {error}") from None
    _check_keys(str(path), content, _PLAN_KEYS, {"output", "test", "train", "detector", "methods"})
    images = _spec(content["images"], "images") if "images" in content else ""
    regions = {name: _generator(name, words) for name, words in _table(content, "regions").items()}
    methods = {str(name): _method(str(name), entry or {}, images, regions) for name, entry in _table(content, "methods").items()}
    if not methods:
        raise ValueError(f"{path}: methods is empty; expected at least one")
    baselines = tuple(map(str, _list(content, "baselines", [next(iter(methods))])))
    if unknown := [name for name in baselines if name not in methods]:
        raise ValueError(f"baselines: found {', '.join(unknown)}; expected names of methods: {', '.join(methods)}")
    return Plan(
        output=Path(content["output"]).expanduser().absolute(),
        train=_spec(content["train"], "train"),
        test=_spec(content["test"], "test"),
        validation=_validation(content.get("validation", VALIDATION)),
        detector=_config(content["detector"], "detector"),
        baselines=baselines,
        seeds=_numbers(content, "seeds", [0, 1, 2], int, lambda value: value >= 0, "numbers >= 0"),
        budgets=_budgets(content) if any(method.config for method in methods.values()) else (),
        fractions=_numbers(content, "fractions", [1.0], float, lambda value: 0 < value <= 1, "numbers in (0, 1]"),
        knn=_neighbours(content["knn"]) if "knn" in content else None,
        sweep=_sweep(_table(content, "sweep")),
        regions=regions,
        methods=methods,
    )


def _method(name: str, entry: Any, images: str, regions: Mapping[str, Words]) -> Method:
    where = f"methods: {name}"
    _check_keys(where, entry, _METHOD_KEYS, set())
    if not name.replace("_", "").replace("-", "").replace(".", "").isalnum():
        raise ValueError(f"{where}: expected a name of letters, digits, and the characters _-.")
    config, weights = entry.get("config", ""), str(entry.get("weights", ""))
    if config and weights:
        raise ValueError(f"{where}: found config and weights; expected a config to pretrain by, or the weights of another program")
    images = _spec(entry["images"], f"{where}: images") if "images" in entry else images
    if config and not images:
        raise ValueError(f"{where} is pretrained, but neither it nor the plan has images; expected a folder or a spec")
    chosen = str(entry.get("regions", ""))
    if chosen and chosen not in regions:
        raise ValueError(f"{where}: regions: found {chosen}; expected one of {', '.join(regions) or 'the plan, which has none'}")
    words = _words(_mapping(where, entry.get("options") or {}))
    weights = str(Path(weights).expanduser().absolute()) if weights else ""
    return Method(name, _config(config, f"{where}: config") if config else "", weights, images, chosen, words)


def _check_keys(where: str, content: Any, known: set[str], needed: set[str]) -> None:
    for key in _mapping(where, content):
        if key not in known:
            similar = difflib.get_close_matches(str(key), sorted(known), n=1)
            hint = f"did you mean {similar[0]}?" if similar else f"expected {', '.join(sorted(known))}"
            raise ValueError(f"{where}: {key} is not a key here; {hint}")
    if missing := sorted(needed - content.keys()):
        raise ValueError(f"{where}: {', '.join(missing)} missing; 'detcon_d2 experiment --help' shows a plan")


def _mapping(where: str, content: Any) -> dict:
    if not isinstance(content, dict):
        raise ValueError(f"{where}: found {content!r}; expected keys with values")
    return content


def _table(content: dict, key: str) -> dict:
    return _mapping(key, content.get(key) or {})


def _list(content: dict, key: str, default: list) -> list:
    found = content.get(key, default)
    return found if isinstance(found, list) else [found]


def _numbers(content: dict, key: str, default: list, kind: type, fits: Any, expected: str) -> tuple:
    found = _list(content, key, default)
    good = [one for one in found if isinstance(one, int | kind) and not isinstance(one, bool) and fits(one)]
    if not found or len(good) < len(found) or len(set(good)) < len(good):
        raise ValueError(f"{key}: found {found}; expected a list of different {expected}")
    return tuple(map(kind, good))


def _budgets(content: dict) -> tuple[Budget, ...]:
    if "seconds" not in content:
        return tuple(map(Budget, _numbers(content, "budgets", [], int, lambda value: value > 0, "numbers of images > 0")))
    if "budgets" in content:
        raise ValueError("found budgets and seconds; expected one of them: the length of pretraining in images seen, or in seconds")
    return tuple(Budget(seconds=value) for value in _numbers(content, "seconds", [], int, lambda value: value > 0, "whole seconds > 0"))


def _neighbours(entry: Any) -> Neighbours:
    _check_keys("knn", entry, set(Neighbours._fields), set(Neighbours._fields))
    size = entry["size"]
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ValueError(f"knn: size: found {size!r}; expected the side of the images in pixels")
    return Neighbours(_spec(entry["train"], "knn: images"), _spec(entry["test"], "knn: images"), size)


def _spec(name: Any, where: str) -> str:
    name = str(name)
    if not is_dataset_spec(name) and where.endswith("images"):
        name = f"folder:{name}"
    if not is_dataset_spec(name):
        raise ValueError(f"{where}: found {name}; expected a data set such as coco:/data/train.json,/data/images or voc:/data/voc,train")
    return canonical_spec(name)


def _config(name: Any, where: str) -> str:
    try:
        return str(Path(find_config(str(name))).absolute())
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _validation(found: Any) -> str | float:
    if isinstance(found, str):
        return _spec(found, "validation")
    if not isinstance(found, float) or not 0 < found < 1:
        raise ValueError(f"validation: found {found!r}; expected a data set, or a share of the training images between 0 and 1")
    return found


def _generator(name: Any, words: Any) -> Words:
    words = tuple(str(words).split())
    if len(words) < 2 or words[0] != "--generator" or words[1] not in REGION_GENERATOR_REGISTRY:
        expected = "options of generate_masks, such as '--generator fh --scale 300 --min-size 100'"
        raise ValueError(f"regions: {name}: found '{' '.join(words)}'; expected {expected}")
    return words


def _words(options: dict) -> Words:
    return tuple(text for key, value in options.items() for text in (str(key), str(value)))


def _sweep(options: dict) -> tuple[Words, ...]:
    values = [value if isinstance(value, list) else [value] for value in options.values()]
    return tuple(_words(dict(zip(options, chosen, strict=True))) for chosen in itertools.product(*values))
