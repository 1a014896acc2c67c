"""``recipe.html``: what the recipe saw, what it chose and why, and what will take how long."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from detcon_d2.engine.visualize import SheetRow, render_sheet
from detcon_d2.io.atomic import write_bytes_atomically
from detcon_d2.quickstart.report.page import bars, card, page, paragraph, photo, table
from detcon_d2.recipe.config import Choice
from detcon_d2.recipe.look import Images, Objects
from detcon_d2.recipe.regions import Candidate

_BINS = 10


def write_sheet(
    path: Path,
    images: Images,
    objects: Objects | None,
    rows: list[SheetRow],
    candidates: Sequence[Candidate],
    chosen: int,
    configs: Mapping[str, Sequence[Choice]],
    seconds: Mapping[str, float],
    script: str,
) -> None:
    """Write the page: images and objects, views, regions that were tried, choices of each config file, time, and the commands."""
    sections = [("Images", _images(images, objects))]
    sections.append(("Views and regions", photo(render_sheet(rows, "as pretraining sees them"), "images, regions and views")))
    sections.append(("Regions that were tried", _candidates(candidates, chosen)))
    sections += [(name, _choices(choices)) for name, choices in configs.items()]
    sections.append(("Time", bars([(name, 0, value / 60) for name, value in seconds.items()], lambda value: f"{value:.1f} min")))
    sections.append(("Commands", f"<pre>{escape(script)}</pre>"))
    intro = paragraph(
        f"For {escape(images.spec)}. Read it, change what you know better in the config files, and start <code>sh run.sh</code>."
    )
    write_bytes_atomically(path, page("Recipe", intro, sections).encode())


def _images(images: Images, objects: Objects | None) -> str:
    facts = [
        ("images", f"{len(images.records)}, the median {images.width} x {images.height} pixels"),
        ("brightness", f"{images.brightness:.0f} of 255 on average; {images.grey:.0%} of the images are grey"),
    ]
    if objects is None:
        return table(("", ""), [*facts, ("annotations", "none given")], "facts")
    masks = "masks" if objects.masks else "boxes only"
    counts = f"{len(objects.boxes)} in {objects.train_images} images, {masks}, at most {objects.most} in an image"
    facts += [("objects", counts), ("classes", escape(", ".join(objects.classes))), ("test images", str(objects.test_images))]
    if len(objects.classes) > 1:
        chance = f"chance: {1 / len(objects.classes):.0%}"
        facts.append(("class by mean colour alone", f"right for {objects.color_accuracy:.0%} of the objects ({chance})"))
    facts += [("found", escape(line)) for line in objects.findings]
    sizes = objects.sizes()
    edges = np.quantile(sizes, np.linspace(0, 1, _BINS + 1))
    counted = [np.count_nonzero(sizes < edge) / len(sizes) for edge in edges[1:-1]]
    lines = [(f"below {edge:.0f} px", 0, 100 * share) for edge, share in zip(edges[1:-1], counted)]
    return table(("", ""), facts, "facts") + card("Sizes of the objects (root of the area of the box), percent", bars(lines))


def _candidates(candidates: Sequence[Candidate], chosen: int) -> str:
    lines = [
        (
            f"<b>{index + 1}: chosen</b>" if index == chosen else str(index + 1),
            *(f"{value:g}" for value in (one.generator.params()["scale"], one.generator.params()["min_size"])),
            f"{one.figures.regions:.1f}",
            f"{one.figures.kept:.1f}",
            f"{one.figures.lost:.0%}",
            "" if one.overlap is None else f"{one.overlap:.2f}",
        )
        for index, one in enumerate(candidates)
    ]
    return table(("", "scale", "min_size", "regions per view", "with a cell", "lost", "overlap with the objects"), lines)


def _choices(choices: Sequence[Choice]) -> str:
    last = {choice.key: choice for choice in choices}
    return table(
        ("key", "value", "reason"), [(one.key, _wrapping(str(one.value)), _wrapping(one.reason)) for one in last.values()], "facts"
    )


def _wrapping(text: str) -> str:
    """HTML that may be wrapped within paths, which would otherwise push the last column off the page."""
    return escape(text).replace("/", "/<wbr/>").replace(",", ",<wbr/>")
