"""The only module that imports Detectron2; the rest of the package uses it as ``from detcon_d2 import d2``.

``d2.get_cfg``, ``d2.ResNet``, ``d2.comm`` and so on are looked up when they are first used: in the installed ``detectron2``, or in
:mod:`detcon_d2.detectron2_subset` if Detectron2 is not installed. Each name is the identical object of that package; there are no wrappers.
The environment variable ``DETCON_D2_BACKEND=auto|detectron2|subset`` forces the choice. It is read once, at import.
"""

import importlib
import importlib.util
import os
import warnings
from types import ModuleType

_SUBSET = "detcon_d2.detectron2_subset"
_CHOICES = ("auto", "detectron2", "subset")

# Public module of Detectron2 -> the names that this project uses from it.
_NAMES = {
    "checkpoint": ("DetectionCheckpointer",),
    "config": ("CfgNode", "configurable", "get_cfg"),
    "data": (
        "DatasetCatalog",
        "DatasetFromList",
        "DatasetMapper",
        "MetadataCatalog",
        "build_detection_test_loader",
        "get_detection_dataset_dicts",
    ),
    "data.datasets": ("register_coco_instances",),
    "data.samplers": ("TrainingSampler",),
    "engine": ("HookBase", "TrainerBase", "default_argument_parser", "default_setup"),
    "evaluation": ("COCOEvaluator", "inference_on_dataset", "print_csv_format"),
    "evaluation.coco_evaluation": ("instances_to_coco_json",),
    "layers": ("Conv2d", "ShapeSpec", "get_norm"),
    "modeling": ("BACKBONE_REGISTRY", "META_ARCH_REGISTRY", "ResNet", "build_backbone", "build_model"),
    "modeling.backbone.fpn": ("FPN", "LastLevelMaxPool"),
    "modeling.backbone.resnet": ("BasicBlock", "BasicStem", "BottleneckBlock"),
    "solver": ("LRMultiplier", "build_lr_scheduler", "build_optimizer"),
    "solver.build": ("maybe_add_gradient_clipping",),
    "structures": ("BoxMode", "Boxes", "ImageList", "Instances", "PolygonMasks"),
    "utils.env": ("seed_all_rng",),
    "utils.events": ("EventStorage", "EventWriter", "JSONWriter", "TensorboardXWriter", "get_event_storage"),
    "utils.file_io": ("PathManager",),
    "utils.logger": ("setup_logger",),
}
# Modules that are used as namespaces.
_MODULES = {"comm": "utils.comm", "hooks": "engine.hooks", "transforms": "data.transforms", "detection_utils": "data.detection_utils"}
_WHERE = {name: module for module, names in _NAMES.items() for name in names}


def _choose_backend() -> str:
    choice = os.environ.get("DETCON_D2_BACKEND", "auto")
    if choice not in _CHOICES:
        raise ValueError(f"DETCON_D2_BACKEND is {choice!r}; expected one of {', '.join(_CHOICES)}.")
    if choice == "subset":
        return _SUBSET
    # An installed but broken Detectron2 is not replaced: it raises its own error on first use.
    if importlib.util.find_spec("detectron2") is not None:
        return "detectron2"
    if choice == "auto":
        return _SUBSET
    raise ModuleNotFoundError(
        "DETCON_D2_BACKEND=detectron2, but detectron2 is not installed. Install it (https://detectron2.readthedocs.io, "
        "'Installation') or put a checkout on PYTHONPATH, or unset DETCON_D2_BACKEND to use the bundled subset.",
        name="detectron2",
    )


_PACKAGE = _choose_backend()
BACKEND: str = "detectron2" if _PACKAGE == "detectron2" else "subset"
"""Which backend this process uses: ``"detectron2"`` or ``"subset"``."""


def describe_backend() -> str:
    """Return one line for logs, checkpoints and results: the backend's name, version and folder."""
    package = importlib.import_module(_PACKAGE)
    folder = os.path.dirname(package.__file__)
    return f"{BACKEND} {package.__version__} ({folder})"


def import_quietly(module: str) -> ModuleType:
    """Import a module that imports ``fvcore.nn``, which calls torch.jit.script. Recent PyTorch warns of that; users cannot change it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
        return importlib.import_module(module)


def __getattr__(name: str):
    if name in _MODULES:
        value = import_quietly(f"{_PACKAGE}.{_MODULES[name]}")
    elif name in _WHERE:
        module = import_quietly(f"{_PACKAGE}.{_WHERE[name]}")
        try:
            value = getattr(module, name)
        except AttributeError:
            remedy = "is not in the subset; install detectron2" if BACKEND == "subset" else "is not in the installed detectron2; upgrade it"
            raise AttributeError(f"{name} ({_WHERE[name]}.{name} of Detectron2) {remedy}.") from None
    else:
        hint = " It is not in the subset; install detectron2 and import it from there." if BACKEND == "subset" else ""
        raise AttributeError(f"detcon_d2.d2 has no name {name!r}.{hint}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({"BACKEND", "describe_backend", *_MODULES, *_WHERE})
