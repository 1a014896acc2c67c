"""Views and colours that suit the images: sizes by the objects, colours by what they leave of the contrast."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from detcon_d2 import d2
from detcon_d2.engine.view_figures import ViewFigures
from detcon_d2.engine.visualize import SheetRow, measure_views
from detcon_d2.methods import pretraining_class
from detcon_d2.modeling.backbone import feature_strides
from detcon_d2.recipe.config import Choice, chosen_config
from detcon_d2.recipe.look import Images, Objects

HALF_A_CELL = math.sqrt(0.5)
"""Side, in cells, of an object that covers half of a cell and is its most frequent region wherever it is centred on it."""
_CROPS = ((0.15, 1.0), (0.08, 0.5), (0.05, 0.25))
_STRENGTHS = (1.0, 0.5, 0.25, 0.125)
_ADDED = 0.03
"""Share of views that colours may make nearly constant."""
_TELLING = 0.7


class Setup(NamedTuple):
    """What a kind of machine is offered: base configs, why the first one's method, DETCON.IN_FEATURE, the feature in which an object should
    have half a cell and its possible strides, sides of views, the first strength of the colours, and the most images of a batch."""

    pretraining: str
    method: str
    detector: str
    boxes: str
    feature: str
    finest: str
    strides: tuple[int, ...]
    sides: tuple[int, ...]
    strength: float
    batch: int
    text: str


CPU = Setup(
    "quickstart/mask_prediction_R_18_FPN.yaml",
    "after eight minutes of a core +10.0 box AP over random weights on nuclei, +5.7 on blood cells, three seeds (docs/experiments.md)",
    "quickstart/mask_rcnn_R_18_FPN.yaml",
    "quickstart/mask_rcnn_R_18_FPN.yaml",
    "p4",
    "p3",
    (8,),
    (64, 96, 128),
    0.5,
    32,
    "ResNet-18 up to res4, for a CPU",
)
CONTRAST = CPU._replace(
    pretraining="quickstart/detcon_s_R_18.yaml",
    method="DetCon also contrasts images with each other; where few regions of a view keep a cell, mask prediction has little to predict",
    feature="res4",
    finest="res4",
    strides=(16,),
    sides=(65, 97, 129),
)
"""In place of CPU for images without regions."""
GPU = Setup(
    "Base-DetCon_S.yaml",
    "DetCon's contrast of the same regions; mask prediction, which gains more in minutes of a CPU, was not measured at this length",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_standard_1x.yaml",
    "COCO-Detection/faster_rcnn_R_50_FPN_standard_1x.yaml",
    "res5",
    "res5",
    (32, 16),
    (224,),
    1.0,
    256,
    "ResNet-50 at 224 px, for a GPU",
)


def choose_views(setup: Setup, objects: Objects | None) -> list[Choice]:
    """Side of the views, area of the crops, and for a GPU the stride, so that the median object covers at least half a cell."""
    if objects is None:
        reason = "no annotated objects to choose by"
        return [Choice("DETCON.VIEWS.SIZE", setup.sides[0], reason), Choice("DETCON.IN_FEATURE", setup.feature, reason)]
    share = float(np.median(objects.shares()))
    # Smaller crops cost nothing, larger views their area; a dilated res5 costs four times its own time.
    options = [(size, area, step) for step in setup.strides for size in setup.sides for area in _CROPS]
    fitting = [one for one in options if cells_across(share, *one) >= HALF_A_CELL]
    size, area, stride = fitting[0] if fitting else options[-1]
    across = cells_across(share, size, area, stride)
    text = f"the median object ({share:.0%} of the image's side) is {across:.2f} cells wide in the mean crop"
    if fitting and fitting[0] != options[0]:
        before = options[options.index(fitting[0]) - 1]
        text += f"; {_words(*before)} it would be {cells_across(share, *before):.2f}, and below {HALF_A_CELL:.2f} an object has no cell"
    elif not fitting:
        text += f", less than {HALF_A_CELL:.2f}: many objects have no cell even so; cut the images into tiles"
    also = "" if setup.finest == setup.feature else f"for the figures in the log; {setup.finest} predicts as well: "
    choices = [
        Choice("DETCON.VIEWS.SIZE", size, f"{text}; larger views cost their area"),
        Choice("DETCON.VIEWS.CROP_AREA", area, f"with views of {size} px {text}"),
        Choice("DETCON.IN_FEATURE", setup.feature, f"{also}{setup.finest} has a cell per {stride} pixels: {text}"),
    ]
    return choices if stride == setup.strides[0] else [*choices, Choice("MODEL.RESNETS.RES5_DILATION", 2, f"stride 16: {text}")]


def cells_across(share: float, size: int, area: tuple[float, float], stride: int) -> float:
    """Side in cells of an object in the mean crop of a view of ``size`` pixels; it has this share of the image's side."""
    return share / math.sqrt(sum(area) / 2) * math.ceil(size / stride)


def _words(size: int, area: tuple[float, float], stride: int) -> str:
    return f"with {size} px, crops of {area[0]:.0%} to {area[1]:.0%} and a stride of {stride}"


def view_rows(cfg: "d2.CfgNode", images: Images, label_maps: Sequence[np.ndarray] | None = None) -> Iterator[SheetRow]:
    """The sample of images as a training with this config sees them, with their label maps, uint16 (H, W); without, each image is one
    region."""
    cfg = cfg.clone()
    cfg.DETCON.AUG.MODE, cfg.DETCON.AUG.WHERE = "exact", "worker"
    maker = pretraining_class(cfg.MODEL.META_ARCHITECTURE).Samples.from_config(cfg, feature_strides(cfg)[cfg.DETCON.IN_FEATURE])
    label_maps = [np.zeros(image.shape[:2], np.uint16) for image in images.sample] if label_maps is None else label_maps
    for position, (image, name, label_map) in enumerate(zip(images.sample, images.names, label_maps, strict=True)):
        sample = maker(image, label_map, position) | {"file_name": name}
        yield SheetRow(image, label_map, sample, maker.sample_geometry(position, *image.shape[:2]))


def choose_colors(setup: Setup, images: Images, objects: Objects | None, views: Sequence[Choice]) -> tuple[list[Choice], ViewFigures]:
    """The strongest colours that make few views constant; also the figures of the views with them."""
    tried = []
    for strength in _STRENGTHS[_STRENGTHS.index(setup.strength) :]:
        choices = _colors(strength, images, objects, tried)
        figures = measure_views(view_rows(chosen_config(setup.pretraining, [*views, *choices]), images))
        if figures.constant - figures.constant_crops <= _ADDED:
            break
        tried.append(f"{figures.constant:.0%} at {strength:g}")
    said = f"{figures.constant:.0%} of the views are nearly constant, {figures.constant_crops:.0%} of the crops before their colours change"
    return [choices[0]._replace(reason=f"{choices[0].reason}; {said}"), *choices[1:]], figures


def _colors(strength: float, images: Images, objects: Objects | None, tried: list[str]) -> list[Choice]:
    half = ", as SimCLR itself has for small images" if strength == 0.5 and not tried else ""
    reason = f"{strength:g} of SimCLR's strength{half}" + (f", as more makes views constant ({', '.join(tried)})" if tried else "")
    value, hue, gray, why = 0.8 * strength, 0.2 * strength, (0.2, 0.2), f"as strong as BRIGHTNESS: {strength:g} of SimCLR's"
    if images.grey > 0.95:
        hue, gray, why, saturation = 0.0, (0.0, 0.0), f"{images.grey:.0%} of the images are grey", 0.0
    elif objects is not None and objects.color_accuracy > _TELLING:
        chance = 1 / len(objects.classes)
        why = (
            f"colour tells the class: the mean colour alone is right for {objects.color_accuracy:.0%} of the objects (chance {chance:.0%})"
        )
        hue, gray, saturation = hue / 4, (0.0, 0.0), value / 4
    else:
        saturation = value
    multiplied = "brightness is multiplied; adding to it, as DetCon_B does (dm_pix), leaves dark and bright images without contrast"
    return [
        Choice("DETCON.AUG.BRIGHTNESS", round(value, 4), reason),
        Choice("DETCON.AUG.CONTRAST", round(value, 4), reason),
        Choice("DETCON.AUG.SATURATION", round(saturation, 4), why),
        Choice("DETCON.AUG.HUE", round(hue, 4), why),
        Choice("DETCON.AUG.GRAY_PROB", gray, why if gray == (0.0, 0.0) else "SimCLR's, as colour is not known to tell the class"),
        Choice("DETCON.AUG.OPERATORS", "torchvision", multiplied),
    ]
