"""What reports share: charts of the scalars of several runs, and the budgets of runs as cells of a table."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from detcon_d2.io.charts import Line
from detcon_d2.quickstart.report.page import card, curves, legend
from detcon_d2.quickstart.results import Points

# Scalar of training -> title, range of the axis, meaning. Others are shown by their names.
_MEANINGS = {
    "learning/retrieval_top1": ("Retrieval, top-1", None, "Share of regions whose nearest target in the other view is the same region."),
    "learning/projection_std": ("Spread of projections", (0.0, 1.0), "Near 1: spread over all directions. Towards 0: collapse."),
    "learning/positive_fraction": ("Positives", (0.0, 1.0), "Share of sampled regions that are also sampled in the other view."),
    "learning/regions_per_view": ("Regions per view", None, "Different regions with a cell: those that are sampled."),
    "learning/regions_in_pixels": ("Regions per view, by pixels", None, "Different regions before each cell takes its most frequent one."),
    "learning/lost_regions": ("Lost regions", (0.0, 1.0), "Share of the regions in a view that lose all their cells."),
    "learning/constant_views": ("Nearly constant views", (0.0, 1.0), "Share of the views without contrast, of which nothing is learned."),
    "learning/accuracy": ("Accuracy", None, "Share of right answers to the method's task."),
    "learning/chance": ("Chance", None, "Accuracy of a guess."),
    "probe/accuracy": ("Online probe", (0.0, 1.0), "Share of training images that a linear layer on the encoder classifies correctly."),
    "bbox/AP": ("Box AP on the validation images", None, ""),
    "segm/AP": ("Mask AP on the validation images", None, ""),
}


class Scalars(NamedTuple):
    """The scalars of a run: its title, the index of its colour, and the points of each scalar by name."""

    title: str
    color: int
    series: Mapping[str, Points]


def curve_cards(runs: Sequence[Scalars], patterns: Sequence[str]) -> str:
    """The legend, and one chart for each scalar that one of the regular expressions matches and that has more than one point."""
    names = dict.fromkeys(name for pattern in patterns for run in runs for name in run.series if re.fullmatch(pattern, name))
    cards = []
    for name in names:
        lines = [Line(run.title, run.series[name], run.color) for run in runs if name in run.series]
        title, y_range, meaning = _MEANINGS.get(name, (name, None, ""))
        # The tables contain a single evaluation already.
        if max(len(line.points) for line in lines) > 1:
            cards.append(card(title, f'{curves(lines, title, y_range)}<div class="soft">{meaning}</div>'))
    return f'{legend([(run.title, run.color) for run in runs])}<div class="cards charts">{"".join(cards)}</div>'


BUDGET_HEAD = ("images seen", "forwards per image", "forwards", "seconds", "parameters")


def budget_cells(metadata: Mapping[str, Any]) -> list[str]:
    """The cells below :data:`BUDGET_HEAD`, of a checkpoint's metadata; a dash where a count is unknown.

    Forward passes, in units of one 224 crop, are "trained + without gradient"; parameters are "encoder + heads", in millions.
    """
    if "images_seen" not in metadata:
        return ["–"] * len(BUDGET_HEAD)
    found = {key: value for key, value in metadata.items() if isinstance(value, int | float)}
    pairs = [
        ("{:,.2f}", "forwards_trained_per_image", "forwards_no_grad_per_image"),
        ("{:,.0f}", "forwards_trained", "forwards_no_grad"),
        ("{:,.2f} M", "parameters_encoder", "parameters_heads"),
    ]
    found |= {key: value / 1e6 for key, value in found.items() if key.startswith("parameters_")}
    per_image, total, parameters = (
        " + ".join(text.format(found[key]) for key in keys) if keys[0] in found else "–" for text, *keys in pairs
    )
    return [f"{found['images_seen']:,}", per_image, total, f"{found['seconds']:,.0f}", parameters]
