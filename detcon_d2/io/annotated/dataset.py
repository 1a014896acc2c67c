"""What a reader of annotations returns: images, categories, and what was odd."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

from detcon_d2.io.names import printable

REPAIRED, LEFT_OUT, DOUBTFUL, WRONG = "repaired", "left out", "looks wrong", "wrong"
"""What became of an annotation or image: it has a value now, is gone, or is kept; with a WRONG one nothing can be trained."""

_PICTURES = 6


@dataclass
class Finding:
    """One kind of oddity.

    Attributes:
        kind: what is odd, without numbers.
        effect: REPAIRED, LEFT_OUT, DOUBTFUL or WRONG.
        unit: what is counted.
        count: how often it occurs.
        example: the first one, in words.
        pictures: (record, annotation or None) of the first ones.
    """

    kind: str
    effect: str
    unit: str
    count: int = 0
    example: str = ""
    pictures: list[tuple[dict, dict | None]] = field(default_factory=list)

    def line(self) -> str:
        """One line of a summary."""
        return f"{self.effect}: {self.count} {self.unit}{'' if self.count == 1 else 's'}, {self.kind} (first: {self.example})"


class Findings:
    """The findings of a data set, by kind, in the order in which they were made."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Finding] = {}

    def note(
        self, kind: str, effect: str, record: dict | None = None, annotation: dict | None = None, detail: str = "", unit: str = "annotation"
    ) -> None:
        """Count an oddity of an annotation, an image or the whole."""
        finding = self._found.get((kind, effect))
        if finding is None:
            where = [f"annotation {annotation.get('id', '(no id)')}"] if annotation is not None else []
            where += [f"image {record['key']}"] if record is not None else []
            text = ": ".join(part for part in (", ".join(where), detail) if part)
            finding = self._found[kind, effect] = Finding(kind, effect, unit, example=printable(text))
        finding.count += 1
        if record is not None and len(finding.pictures) < _PICTURES:
            finding.pictures.append((record, annotation))

    def __iter__(self) -> Iterable[Finding]:
        return iter(list(self._found.values()))

    def count(self, *effects: str, unit: str = "annotation") -> int:
        """How many have one of the effects."""
        return sum(finding.count for finding in self if finding.effect in effects and finding.unit == unit)


@dataclass
class AnnotatedData:
    """A data set with annotations.

    Attributes:
        name: its spec, for messages.
        records: Detectron2-like dicts: ``file_name``, ``key``, ``image_id``, where known ``height`` and ``width``, and ``annotations``,
            COCO-like dicts: ``bbox`` (x, y, width, height), ``category_id``, ``iscrowd``, ``area``, ``segmentation``, each where the source
            has it. :func:`detcon_d2.io.annotated.checks.check_annotations` fills in and removes what is missing or wrong.
        categories: id -> name, sorted by id.
        findings: what was odd.
        declared: whether the source lists its classes; otherwise these are the classes that occur.
        has_annotations: whether the source has any list of annotations.
    """

    name: str
    records: list[dict]
    categories: dict[int | str, str]
    findings: Findings = field(default_factory=Findings)
    declared: bool = True
    has_annotations: bool = True

    def annotations(self) -> list[dict]:
        """Those of all images."""
        return [annotation for record in self.records for annotation in record["annotations"]]

    def class_names(self) -> list[str]:
        """Names of the categories in the order of their ids."""
        return list(self.categories.values())

    def summary(self) -> list[str]:
        """The lines for a log: counts, and what was odd."""
        annotations = self.annotations()
        crowds, bare = sum(bool(one.get("iscrowd")) for one in annotations), sum(not one.get("segmentation") for one in annotations)
        empty = sum(not record["annotations"] for record in self.records)
        names = ", ".join(islice(self.class_names(), 10)) + (", ..." if len(self.categories) > 10 else "")
        counts = f"{len(annotations)} annotations ({crowds} crowds, {bare} without mask), {len(self.categories)} categories ({names})"
        lines = [printable(f"{self.name}: {len(self.records)} images ({empty} without annotations), {counts}")]
        return lines + [f"  {finding.line()}" for finding in self.findings]


def normal_id(value: object) -> object:
    """An id as a whole number where it is one, also written as text or 3.0; any other value unchanged, text without blanks around it."""
    if isinstance(value, str):
        text = value.strip()
        return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else text
    return int(value) if isinstance(value, float) and value.is_integer() else value


def unique_ids(values: list[str | int | float]) -> list:
    """The ids of a list by :func:`normal_id`, unless two would become equal; all as text if some are no whole numbers."""
    ids = [normal_id(value) for value in values]
    if len(set(ids)) < len(set(values)):
        ids = values
    return ids if all(isinstance(one, int) for one in ids) else [str(one) for one in ids]


def whole_size(value: object) -> int | None:
    """A side in pixels, also as text; None unless it is a whole number above 0."""
    number = normal_id(value)
    return number if isinstance(number, int) and not isinstance(number, bool) and number > 0 else None
