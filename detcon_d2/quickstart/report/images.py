"""Pictures of the report as HTML: photographs, embedded as JPEG, with vector outlines over them."""

import base64
from collections.abc import Sequence
from html import escape

import cv2
import numpy as np

from detcon_d2.masks.overlay import region_color
from detcon_d2.quickstart.report.inputs import LabelledImages, Thing

_JPEG_QUALITY = 88
_MAX_SIDE = 640
# Contours are traced on masks enlarged by this, so that they run along the pixels' edges.
_CONTOUR_SCALE = 4


def data_uri(image: np.ndarray, quality: int = _JPEG_QUALITY) -> str:
    """A JPEG of an image uint8 (H, W, 3) RGB, as a URI that holds the data itself."""
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert ok
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}"


def picture(image: np.ndarray, size: tuple[int, int], overlay: str, caption: str) -> str:
    """A ``<figure>`` of an image with SVG shapes over it.

    Args:
        image: uint8 (h, w, 3) RGB, drawn as wide and high as ``size``.
        size: (H, W), the pixels that the overlay's coordinates count.
        overlay: SVG elements.
        caption: plain text.
    """
    height, width = size
    scale = min(1.0, _MAX_SIDE / max(image.shape[:2]))
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    label = escape(caption)
    return (
        f'<figure class="tile"><svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">'
        f'<image href="{data_uri(image)}" width="{width}" height="{height}" preserveAspectRatio="none"/>{overlay}</svg>'
        f"<figcaption>{label}</figcaption></figure>"
    )


def mask_path(mask: np.ndarray) -> str:
    """The ``d`` of an SVG path around a mask bool (H, W), holes included, in pixels; to be filled by the even-odd rule."""
    large = np.kron(mask.astype(np.uint8), np.ones((_CONTOUR_SCALE, _CONTOUR_SCALE), np.uint8))
    contours, _ = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    loops = [cv2.approxPolyDP(contour, _CONTOUR_SCALE / 2, True)[:, 0] for contour in contours]
    corners = [(loop + 0.5) / _CONTOUR_SCALE for loop in loops if len(loop) >= 3]
    return "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in loop) + "Z" for loop in corners)


def outline(mask: np.ndarray, color: str = "#fff", fill: float = 0.0, dashed: bool = False) -> str:
    """An SVG path around a mask bool (H, W): line of a CSS colour over a dark one, filled with opacity ``fill``."""
    path = mask_path(mask)
    style = f'fill="{color}" fill-opacity="{fill:g}" stroke="{color}"' + (' stroke-dasharray="3 3"' if dashed else "")
    return f'<path class="under" d="{path}"/><path class="over" d="{path}" {style}/>'


def draw_things(things: Sequence[Thing], categories: dict[int, str], size: tuple[int, int]) -> str:
    """Masks in the colours of their categories with names and scores; detections that are not right are dashed and not filled."""
    shapes, labels = [], []
    font = max(size) * 0.062
    for thing in things:
        color = f"rgb{region_color(thing.category)}"
        shapes.append(outline(thing.mask, color, 0.35 if thing.right else 0.0, dashed=not thing.right))
        text = categories.get(thing.category, str(thing.category)) + ("" if thing.score is None else f" {thing.score:.2f}")
        # Centred on the box, but inside the image.
        half = 0.3 * font * len(text)
        x = max(half, min(thing.box[0] + thing.box[2] / 2, size[1] - half))
        y = max(font, min(thing.box[1] + thing.box[3] / 2 + font / 3, size[0] - 2))
        labels.append(f'<text class="tag" x="{x:.1f}" y="{y:.1f}" font-size="{font:.1f}">{escape(text)}</text>')
    return "".join(shapes + labels)


def detection_strip(images: LabelledImages, index: int, detections: dict[str, list[Thing]]) -> str:
    """Ground truth and each arm's detections in one image, side by side.

    Args:
        images: the validation images.
        index: of the image.
        detections: title of the arm -> detections.
    """
    image, objects = images.image(index), images.objects(index)
    size = image.shape[:2]
    number = f"{len(objects)} object{'' if len(objects) == 1 else 's'}"
    tiles = [picture(image, size, draw_things(objects, images.categories, size), f"ground truth: {number}")]
    for title, things in detections.items():
        overlay = draw_things(things, images.categories, size)
        tiles.append(picture(image, size, overlay, f"{title}: {sum(thing.right for thing in things)} of {len(objects)} right"))
    return f'<div class="strip wide" style="--n:{len(tiles)}">{"".join(tiles)}</div>'
