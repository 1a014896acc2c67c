"""Label images of semantic segmentation: the number of a class for each pixel, and one number for pixels that are ignored."""

from pathlib import Path, PurePosixPath

import numpy as np

from detcon_d2.io.annotated.kinds import KINDS, absent_paths, split_spec
from detcon_d2.io.annotated.text import excerpt, read_text
from detcon_d2.io.labels import NO_LABEL, read_labels
from detcon_d2.io.specs import list_images

SEMANTIC_KINDS = ("voc", "masks")
"""Kinds of specs that have label images of classes."""
VOC_CLASSES = ("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog")
VOC_CLASSES += ("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor")
"""Of PASCAL VOC, by number (its development kit, "VOCinit")."""
# VOC's own labels are finer than those of SBD (Hariharan et al. 2011), which are usually unpacked next to them.
_VOC_LABELS = ("SegmentationClass", "SegmentationClassAug")


def read_semantic(spec: str) -> tuple[list[dict], tuple[str, ...]]:
    """The images of a spec with their label images, and the names of the classes by number; () where the source has none.

    ``voc:ROOT,LIST`` has the images of ``ImageSets/Segmentation/LIST.txt``, each with its file in ``SegmentationClass``, or else in
    ``SegmentationClassAug``. ``masks:IMAGES,LABELS`` has the images for which there is a PNG in LABELS.

    Returns:
        dicts ``file_name``, ``sem_seg_file_name`` and ``image_id``, sorted by the image's name.

    Raises:
        ValueError: another kind of spec, a path that does not exist, images without labels in a list of VOC, or no image with labels.
    """
    kind, _, rest = spec.partition(":")
    if kind not in SEMANTIC_KINDS:
        raise ValueError(f"{spec} has no label images of classes; expected {' or '.join(KINDS[one] for one in SEMANTIC_KINDS)}")
    first, second = split_spec(kind, rest)
    if absent := absent_paths(kind, first, second):
        raise ValueError(f"{spec}: there is {absent}; expected {KINDS[kind]}")
    return (_read_voc(first, str(second), spec), VOC_CLASSES) if kind == "voc" else (_read_folders(first, Path(second), spec), ())


def read_label_image(path: str | Path, num_classes: int, ignored: int, size: tuple[int, int] | None = None) -> np.ndarray:
    """The classes of an image, uint8 (H, W), as they are in the file: of a palette PNG the numbers, not the colours.

    Args:
        path: of the label image.
        num_classes: the classes are 0 to ``num_classes - 1``.
        ignored: number of the pixels that have no class.
        size: (H, W) of the image.

    Raises:
        ValueError: a file that cannot be read, another size, or another number.
    """
    try:
        labels = read_labels(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"the label image {path} cannot be read: {error}") from error
    labels = np.where(labels == NO_LABEL, labels.dtype.type(ignored), labels)
    if labels.ndim != 2:
        raise ValueError(f"the label image {path} has colours; expected one number for each pixel (grey or palette)")
    if size is not None and labels.shape != size:
        found, wanted = ("{1} x {0}".format(*shape) for shape in (labels.shape, size))
        raise ValueError(f"the label image {path} has {found} pixels; expected {wanted}, as its image")
    other = labels[(labels >= num_classes) & (labels != ignored)]
    if other.size:
        raise ValueError(f"the label image {path} has the number {other[0]}; expected 0 to {num_classes - 1}, or {ignored} for no class")
    return labels.astype(np.uint8)


def _read_voc(root: Path, split: str, spec: str) -> list[dict]:
    folder = root / "ImageSets" / "Segmentation"
    path = folder / f"{split}.txt"
    if not split or not path.is_file():
        known = ", ".join(sorted(one.stem for one in folder.glob("*.txt"))[:10]) or "none"
        raise ValueError(f"{spec}: found no list {path if split else 'in the spec'}; expected one of those in {folder} ({known})")
    names = sorted({line.split()[0] for line in read_text(path).splitlines() if line.strip()})
    records, missing = [], []
    for name in names:
        image = root / "JPEGImages" / f"{name}.jpg"
        labels = next((one for folder in _VOC_LABELS if (one := root / folder / f"{name}.png").is_file()), None)
        if labels is None or not image.is_file():
            missing.append(name)
        records.append({"file_name": str(image), "sem_seg_file_name": str(labels), "image_id": name})
    if missing or not records:
        raise ValueError(
            f"{spec}: {path} lists {len(names)} images, {len(missing)} of them without JPEGImages/*.jpg or a PNG in "
            f"{' or '.join(_VOC_LABELS)} ({excerpt(missing[:1])}); expected both for each"
        )
    return records


def _read_folders(images: Path, labels: Path, spec: str) -> list[dict]:
    records = []
    for record in list_images(f"folder:{images}"):
        key = PurePosixPath(record["key"])
        path = next((one for one in (labels / key.with_suffix(".png"), labels / f"{key}.png") if one.is_file()), None)
        if path is not None:
            records.append({"file_name": record["file_name"], "sem_seg_file_name": str(path), "image_id": str(key)})
    if not records:
        raise ValueError(f"{spec}: found no PNG in {labels} with the name of an image in {images}; expected at least one")
    return records
