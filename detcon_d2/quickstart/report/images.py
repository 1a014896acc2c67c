"""Images of the report as HTML: photographs, embedded as JPEG, with vector outlines over them."""

import base64
from collections.abc import Sequence
from html import escape

import cv2
import numpy as np

from detcon_d2.masks.overlay import region_color
from detcon_d2.quickstart.report.inputs import LabelledImages, Thing

# Contours are traced on masks enlarged by this factor, so that they follow the edges of the pixels.
_CONTOUR_SCALE = 4


def data_uri(image: np.ndarray, quality: int = 88) -> str:
    """An image uint8 (H, W, 3) RGB as a URI that contains a JPEG of this quality."""
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert ok
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}"


def picture(image: np.ndarray, overlay: str, caption: str) -> str:
    """A ``<figure>`` of an image uint8 (H, W, 3) RGB with SVG elements over it, in pixels, and a caption (plain text) below."""
    (height, width), label = image.shape[:2], escape(caption)
    return (
        f'<figure class="tile"><svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">'
        f'<image href="{data_uri(image)}" width="{width}" height="{height}"/>{overlay}</svg>'
        f"<figcaption>{label}</figcaption></figure>"
    )


def strip(pictures: Sequence[str], kind: str = "") -> str:
    """Pictures in one row; kind "wide": larger ones."""
    return f'<div class="strip {kind}" style="--n:{len(pictures)}">{"".join(pictures)}</div>'


def outline(mask: np.ndarray, color: str = "#fff", fill: float = 0.0, dashed: bool = False) -> str:
    """SVG paths around a mask bool (H, W), holes included: a line of a CSS colour over a dark line, filled with opacity ``fill``."""
    large = np.kron(mask.astype(np.uint8), np.ones((_CONTOUR_SCALE, _CONTOUR_SCALE), np.uint8))
    contours, _ = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    loops = [cv2.approxPolyDP(contour, _CONTOUR_SCALE / 2, True)[:, 0] for contour in contours]
    corners = [(loop + 0.5) / _CONTOUR_SCALE for loop in loops if len(loop) >= 3]
    path = "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in loop) + "Z" for loop in corners)
    style = f'fill="{color}" fill-opacity="{fill:g}" stroke="{color}"' + (' stroke-dasharray="3 3"' if dashed else "")
    return f'<path class="under" d="{path}"/><path class="over" d="{path}" {style}/>'


def draw_things(things: Sequence[Thing], categories: dict[int, str], size: tuple[int, int]) -> str:
    """SVG elements for an image of size (H, W): masks in the colours of their categories, with names and scores.

    Detections that are not correct are dashed and not filled.
    """
    shapes, labels = [], []
    font = max(size) * 0.062
    for thing in things:
        color = f"rgb{region_color(thing.category)}"
        shapes.append(outline(thing.mask, color, 0.35 if thing.correct else 0.0, dashed=not thing.correct))
        text = categories[thing.category] + ("" if thing.score is None else f" {thing.score:.2f}")
        # Centred on the box, but inside the image.
        half = 0.3 * font * len(text)
        x = max(half, min(thing.box[0] + thing.box[2] / 2, size[1] - half))
        y = max(font, min(thing.box[1] + thing.box[3] / 2 + font / 3, size[0] - 2))
        labels.append(f'<text class="tag" x="{x:.1f}" y="{y:.1f}" font-size="{font:.1f}">{escape(text)}</text>')
    return "".join(shapes + labels)


def detection_strip(images: LabelledImages, index: int, detections: dict[str, list[Thing]]) -> str:
    """The objects of the image of an index and the detections of each method, by its title, in one row."""
    image, objects = images.image(index), images.objects(index)
    count, size = len(objects), image.shape[:2]
    captions = {f"ground truth: {count} object{'' if count == 1 else 's'}": objects}
    captions |= {f"{title}: {sum(thing.correct for thing in found)} of {count} correct": found for title, found in detections.items()}
    return strip([picture(image, draw_things(found, images.categories, size), caption) for caption, found in captions.items()], "wide")
