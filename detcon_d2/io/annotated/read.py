"""The reader of each kind of annotated data set."""

from detcon_d2.io.annotated.coco import read_coco
from detcon_d2.io.annotated.dataset import AnnotatedData
from detcon_d2.io.annotated.kinds import KINDS, absent_paths, split_spec
from detcon_d2.io.annotated.label_images import read_cityscapes, read_masks
from detcon_d2.io.annotated.voc import read_voc
from detcon_d2.io.annotated.yolo import read_yolo
from detcon_d2.io.images import PLAIN, Reading

_READERS = {"coco": read_coco, "voc": read_voc, "yolo": read_yolo, "cityscapes": read_cityscapes, "masks": read_masks}


def read_annotated(spec: str, reading: Reading = PLAIN) -> AnnotatedData:
    """The images of an annotated data set, sorted by key, with their annotations, not checked yet.

    Args:
        spec: see :mod:`detcon_d2.io.annotated.kinds`.
        reading: how images are read, for a format in which the size of a file is needed.

    Raises:
        ValueError: a path that does not exist, or files that cannot be read; in one line.
    """
    kind, _, rest = spec.partition(":")
    first, second = split_spec(kind, rest)
    if absent := absent_paths(kind, first, second):
        raise ValueError(f"{spec}: there is {absent}; expected {KINDS[kind]}")
    data = _READERS[kind](first, second, spec, **{"reading": reading} if kind == "yolo" else {})
    data.records.sort(key=lambda record: record["key"])
    for number, annotation in enumerate(data.annotations(), 1):
        annotation.setdefault("id", number)
    return data
