"""``report.html`` of the quickstart: what pretraining learned, what it is worth after fine-tuning, and how that was measured.

One file that needs no network: pictures are embedded, curves are inline SVG.
"""

import json
import platform
import shlex
import statistics
from collections.abc import Sequence
from html import escape
from pathlib import Path

from detcon_d2 import d2
from detcon_d2.checkpoint import read_metadata
from detcon_d2.evaluation.encoders import encode_images, load_encoder
from detcon_d2.io.atomic import write_atomically
from detcon_d2.io.images import read_image
from detcon_d2.quickstart.charts import Line, line_chart
from detcon_d2.quickstart.report_figures import data_uri, detection_strip
from detcon_d2.quickstart.report_html import NUM_COLORS, bars, card, legend, number, page, paragraph, signed, table
from detcon_d2.quickstart.report_inputs import Arm, LabelledImages, Result, check_inputs, read_predictions, read_result
from detcon_d2.quickstart.report_similarity import choose_pairs, mean_separations, similarity_strips, spread_out
from detcon_d2.quickstart.run_log import Points, read_series
from detcon_d2.quickstart.shapes import split_paths

NUM_DETECTIONS = 8
"""Validation images shown with detections: the first ones."""
NUM_PAIRS = 6
"""Region-similarity figures, at most."""
NUM_ENCODED = 32
"""Validation images among which regions are compared: the first ones."""
ZOOM = 3.0
"""Factor by which images are enlarged for the similarity maps."""

_TASKS = (("bbox", "Box"), ("segm", "Mask"))
_PRECISIONS = ("AP", "AP50", "AP75")
# Of the pretraining checkpoint's metadata.
_FACTS = (
    "method",
    "depth",
    "norm",
    "iterations",
    "epochs",
    "ims_per_batch",
    "dataset_size",
    "view_size",
    "mask_parameters",
    "seed",
    "torch",
)
_PRETRAINING_CURVES = (
    ("loss_detcon", "Contrastive loss", None, "Both directions. Falls."),
    (
        "learning/retrieval_top1",
        "Retrieval, top-1",
        None,
        "Share of regions whose nearest target in the other view is the same region. Rises.",
    ),
    ("learning/projection_std", "Spread of projections", (0.0, 1.0), "Near 1: spread over all directions. Towards 0: collapse."),
)


def write_report(folder: Path, arms: Sequence[Arm], output: Path, title: str = "DetCon pretraining, measured by detection") -> None:
    """Write the report of a quickstart's folder.

    Args:
        folder: with ``views.png``, ``data`` and the quickstart's records of what it ran (``stages/*.json``, here and in the arms' folders).
        arms: in the order of tables and legends; the first one without pretraining is the baseline that gains refer to.
        output: the html file, replaced atomically.
        title: of the page.

    Raises:
        ValueError: a file is missing or damaged; says which, and which command makes it.
    """
    check_inputs(folder, arms)
    results = {arm.name: read_result(arm) for arm in arms}
    split = split_paths(folder / "data", "val")
    images = LabelledImages(split.annotations, split.images)
    sections = [
        ("What this shows, and what not", _meaning(images)),
        ("Views and regions", _views(folder)),
        ("Pretraining", _pretraining(arms)),
        ("Fine-tuning", _fine_tuning(arms)),
        ("Average precision", _precision(arms, results, images)),
        ("Detections side by side", _detections(arms, images)),
        ("Region similarity", _similarity(arms, images)),
        ("How it was made", _making(folder, arms, results)),
    ]
    document = page(title, _headline(folder, arms, results, images), [section for section in sections if section[1]])
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, lambda file: file.write(document.encode("utf-8")))


def _headline(folder: Path, arms: Sequence[Arm], results: dict[str, Result], images: LabelledImages) -> str:
    train = json.loads(split_paths(folder / "data", "train").annotations.read_text(encoding="utf-8"))
    text = (
        f"Mask R-CNN, fine-tuned on {len(train['images'])} labelled images in the same way for every arm, "
        f"evaluated on {len(images)} others. Average precision in percent."
    )
    baseline, pretrained = _baseline(arms), _pretrained(arms)
    cards = []
    for task, name in _TASKS:
        chart = bars([(arm.title, index, results[arm.name].figure(task, "AP")) for index, arm in enumerate(arms)])
        gain = ""
        if baseline and pretrained:
            difference = results[pretrained[0].name].figure(task, "AP") - results[baseline.name].figure(task, "AP")
            over = f"{escape(pretrained[0].title)} over {escape(baseline.title)}"
            gain = f'<div class="big">{signed(difference)} AP</div><div class="soft">{over}</div>'
        cards.append(card(f"{name} AP", gain + chart))
    return f'{paragraph(text)}<div class="cards">{"".join(cards)}</div>'


def _meaning(images: LabelledImages) -> str:
    drawn = images.info.get("shapes", {})
    agreement = f" An object's material agrees with its category with probability {drawn['agreement']:g}." if "agreement" in drawn else ""
    return paragraph(
        "<b>It measures</b> transfer within a small world: whether features that were learned from unlabelled images, by contrasting the "
        "regions of a cheap segmentation, help a detector that sees few labels. Every arm has the same detector, data and schedule; only "
        f"the initial weights of the backbone differ. No photograph behind a validation image is seen in training.{agreement}"
    ) + paragraph(
        "<b>It does not show</b> AP on COCO, nor a ranking of methods. Images are small and drawn, runs are minutes long, and these are "
        "single runs, which another seed alone can move by more than the difference seen. <code>make evidence</code> repeats all of it, "
        "longer and over several seeds, and gives mean and spread."
    )


def _views(folder: Path) -> str:
    text = paragraph(
        "What the network is trained on: each image, its regions (found without labels), and two views with the regions in the same "
        "colours. Features are averaged under each region; the same region in the other view is the positive, all other regions are "
        "negatives."
    )
    sheet = data_uri(read_image(folder / "views.png"), quality=82)
    return f'{text}<div class="scroll"><img class="sheet" alt="images, regions and views" src="{sheet}"></div>'


def _pretraining(arms: Sequence[Arm]) -> str:
    pretrained = _pretrained(arms)
    if not pretrained:
        return ""
    series = {arm.name: read_series(arm.pretrain / "metrics.json") for arm in pretrained}
    cards = []
    for key, name, y_range, meaning in _PRETRAINING_CURVES:
        chart = _chart(arms, {arm.name: series[arm.name].get(key, []) for arm in pretrained}, name, y_range)
        cards.append(card(name, chart + f'<div class="soft">{meaning}</div>') if chart else "")
    return f'{_legend(arms, pretrained)}<div class="cards charts">{"".join(cards)}</div>{paragraph("Over iterations.", soft=True)}'


def _fine_tuning(arms: Sequence[Arm]) -> str:
    series = {arm.name: read_series(arm.finetune / "metrics.json") for arm in arms}
    curves = [("total_loss", "Total loss"), ("bbox/AP", "Box AP on the validation images"), ("segm/AP", "Mask AP on the validation images")]
    cards = []
    for key, name in curves:
        points = {arm.name: series[arm.name].get(key, []) for arm in arms}
        # A single evaluation is in the table already.
        if max(map(len, points.values())) > 1:
            cards.append(card(name, _chart(arms, points, name)))
    return f'{_legend(arms, arms)}<div class="cards charts">{"".join(cards)}</div>{paragraph("Over iterations.", soft=True)}'


def _chart(arms: Sequence[Arm], points: dict[str, Points], name: str, y_range: tuple[float, float] | None = None) -> str:
    colors = {arm.name: (arm.title, index % NUM_COLORS) for index, arm in enumerate(arms)}
    lines = [Line(colors[arm][0], found, colors[arm][1]) for arm, found in points.items() if found]
    return line_chart(lines, name, y_range) if lines else ""


def _legend(arms: Sequence[Arm], shown: Sequence[Arm]) -> str:
    return legend([(arm.title, index % NUM_COLORS) for index, arm in enumerate(arms) if arm in shown])


def _precision(arms: Sequence[Arm], results: dict[str, Result], images: LabelledImages) -> str:
    head = ["", *(f"{name.lower()} {precision}" for _, name in _TASKS for precision in _PRECISIONS)]
    keys = [(task, precision) for task, _ in _TASKS for precision in _PRECISIONS]
    rows = [[escape(arm.title), *(number(results[arm.name].figure(*key)) for key in keys)] for arm in arms]
    baseline = _baseline(arms)
    for arm in _pretrained(arms) if baseline else []:
        gains = [results[arm.name].figure(*key) - results[baseline.name].figure(*key) for key in keys]
        rows.append([f"gain of {escape(arm.title)}", *map(signed, gains)])
    text = paragraph("COCO average precision in percent on the validation images, at the end of fine-tuning.")
    return text + table(head, rows) + "<h3>AP by category</h3>" + _by_category(arms, results, images)


def _by_category(arms: Sequence[Arm], results: dict[str, Result], images: LabelledImages) -> str:
    head = ["", "objects", *(f"{name.lower()}: {escape(arm.title)}" for _, name in _TASKS for arm in arms)]
    rows = []
    for category, name in images.categories.items():
        values = [number(results[arm.name].figure(task, f"AP-{name}")) for task, _ in _TASKS for arm in arms]
        rows.append([escape(name), str(images.count(category)), *values])
    return table(head, rows)


def _detections(arms: Sequence[Arm], images: LabelledImages) -> str:
    ordered = _baseline_first(arms)
    predictions = {arm.title: read_predictions(arm.finetune / "inference" / "coco_instances_results.json") for arm in ordered}
    count = min(NUM_DETECTIONS, len(images))
    strips = []
    for index in range(count):
        image_id = images.records[index]["image_id"]
        found = {title: images.detections(index, by_image.get(image_id, [])) for title, by_image in predictions.items()}
        strips.append(detection_strip(images, index, found))
    text = paragraph(
        f"The first {count} validation images, not chosen by result. Of each arm the detections with the highest scores, as many as the "
        "image has objects: no threshold favours an arm. Filled: category right and mask IoU at least 0.5, each object counted once. "
        "Dashed: wrong."
    )
    return f'{text}<div class="pairs">{"".join(strips)}</div>'


def _similarity(arms: Sequence[Arm], images: LabelledImages) -> str:
    pretrained = _pretrained(arms)
    if not pretrained:
        return ""
    pictures = [images.image(index) for index in range(min(NUM_ENCODED, len(images)))]
    models = {"untrained": load_encoder(pretrained[0].pretrain, trained=False)}
    models |= {arm.title: load_encoder(arm.pretrain) for arm in pretrained}
    encoders = {title: encode_images(model, pictures, ZOOM) for title, model in models.items()}
    pairs = choose_pairs(images, len(pictures))
    rows = [[escape(title), *(f"{value:.3f}" for value in mean_separations(images, pairs, maps))] for title, maps in encoders.items()]
    scores = table(["", "the region in its own image", "its category in the other image"], rows)
    text = _similarity_text(len(pairs), len(pictures), models["untrained"].in_feature, tuple(encoders["untrained"][0].shape[1:]))
    figures = "".join(f"<div>{similarity_strips(images, pair, encoders)}</div>" for pair in spread_out(pairs, NUM_PAIRS))
    return f'{text[0]}{scores}{text[1]}<div class="pairs">{figures}</div>'


def _similarity_text(num_pairs: int, num_images: int, in_feature: str, cells: tuple[int, int]) -> tuple[str, str]:
    """What stands above and below the table."""
    above = paragraph(
        "The encoder straight after pretraining, before any label: the mean feature of one region, and its cosine with the features "
        "everywhere, in its own image and in the next one with an object of the same category. Bright is similar. A good map lights up the "
        "whole object and the other objects of its kind, and nothing else."
    ) + paragraph(
        f"The area under the ROC curve with which the cosine tells cells inside from cells outside, mean over all {num_pairs} such pairs "
        f"among the first {num_images} validation images: 1 is perfect, 0.5 is chance. In its own image the region is compared with a mean "
        "that it is part of; that helps every encoder. In another image, nothing in training says which regions belong together."
    )
    below = paragraph(
        f"Features are the encoder's last ({escape(in_feature)}), {cells[0]} × {cells[1]} cells, shown bilinearly; for that many cells the "
        f"images were enlarged {ZOOM:g} times and mirrored at their borders. BatchNorm uses the statistics of these images for every "
        "encoder. Annotations serve to choose and to outline regions only. Shown are the first pairs that bring both a new category and a "
        "new query image; colours go from the lowest to the highest cosine of an encoder's two maps.",
        soft=True,
    )
    return above, below


def _making(folder: Path, arms: Sequence[Arm], results: dict[str, Result]) -> str:
    rows = [["Detectron2", escape(", ".join(sorted({result.backend for result in results.values()})))]]
    rows.append(["report by", escape(f"{d2.describe_backend().split(' (')[0]}, Python {platform.python_version()}, {platform.machine()}")])
    for arm in _pretrained(arms):
        metadata = read_metadata(arm.pretrain / "model_final.pth") or {}
        facts = [_fact(name, metadata[name]) for name in _FACTS if name in metadata] + _duration(arm.pretrain)
        rows.append([escape(arm.title), escape("; ".join(facts))])
    for arm in arms:
        evaluated = results[arm.name].dataset.replace(str(folder.resolve()), "$OUTPUT")
        facts = [f"{results[arm.name].iteration} iterations", *_duration(arm.finetune), f"evaluated on {evaluated}"]
        rows.append([f"fine-tuning, {escape(arm.title)}", escape("; ".join(facts))])
    body = "".join(f"<tr><th>{name}</th><td style='text-align:left;white-space:normal'>{text}</td></tr>" for name, text in rows)
    return f'<div class="scroll"><table><tbody>{body}</tbody></table></div>{_stages(folder, arms)}'


def _fact(name: str, value: str | float) -> str:
    return f"{name.replace('_', ' ')} {f'{value:.3g}' if isinstance(value, float) else value}"


def _duration(run: Path) -> list[str]:
    """Seconds an iteration: the median of those logged, so that pauses do not count."""
    seconds = [value for _, value in read_series(run / "metrics.json").get("time", [])]
    return [f"{statistics.median(seconds):.2f} s each"] if seconds else []


def _stages(folder: Path, arms: Sequence[Arm]) -> str:
    """What ran, in the order in which it was finished, from the records that the quickstart leaves."""
    folders = [folder / "stages", *(arm.folder / "stages" for arm in arms)]
    records = [path for stages in folders for path in stages.glob("*.json") if path.stem != "report"]
    if not records:
        return ""
    stages = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(records, key=lambda path: path.stat().st_mtime_ns)]
    commands = [shlex.join(stage["command"]).replace(str(folder.resolve()), "$OUTPUT") for stage in stages]
    lines = [f"# {stage['title']}: {stage['seconds']:.0f} s\npython {command}" for stage, command in zip(stages, commands)]
    minutes = sum(stage["seconds"] for stage in stages) / 60
    text = paragraph(f"What was run in the checkout, {minutes:.1f} minutes with what ran side by side counted twice:")
    return text + f"<pre>{escape(chr(10).join(lines))}</pre>"


def _pretrained(arms: Sequence[Arm]) -> list[Arm]:
    return [arm for arm in arms if arm.pretrain is not None]


def _baseline(arms: Sequence[Arm]) -> Arm | None:
    return next((arm for arm in arms if arm.pretrain is None), None)


def _baseline_first(arms: Sequence[Arm]) -> list[Arm]:
    return sorted(arms, key=lambda arm: arm.pretrain is not None)
