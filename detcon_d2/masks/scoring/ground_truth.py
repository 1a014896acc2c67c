"""Ground truth to score regions against: human segmentations in the format of BSDS500, and COCO instances."""

import os
from pathlib import Path, PurePosixPath

import numpy as np

from detcon_d2.io.specs import list_images
from detcon_d2.masks.cells import NO_REGION
from detcon_d2.masks.generators.annotations import annotation_label_map
from detcon_d2.masks.scoring.scores import GroundTruth

_EXTENSIONS = (".npz", ".mat")
_FILE = "ground_truth_file_name"


def list_bsds(images: str, ground_truth: str) -> list[dict]:
    """The images of a folder that have human segmentations: ``<ground_truth>/<key without extension>.npz`` or ``.mat``.

    Returns dataset dicts as :func:`detcon_d2.masks.list_images`, for :func:`read_ground_truth`. Raises ValueError if there are none.
    """
    records = list_images(f"folder:{images}")
    root = Path(ground_truth).expanduser()
    found = [{**record, _FILE: str(path)} for record in records if (path := _segmentation_file(root, record["key"]))]
    if not found:
        raise ValueError(
            f"found no segmentation for any of the {len(records)} images of {images} in {ground_truth}; expected "
            f"{root / PurePosixPath(records[0]['key']).with_suffix('.mat')} (groundTruth of BSDS500) or .npz (array seg) for "
            f"{records[0]['key']}, and so on: give the folders at the same level"
        )
    return found


def _segmentation_file(root: Path, key: str) -> Path | None:
    candidates = [root / PurePosixPath(key).with_suffix(extension) for extension in _EXTENSIONS]
    return next((path for path in candidates if path.is_file()), None)


def list_coco(instances: str, images: str) -> list[dict]:
    """The images of a COCO json, as of :func:`detcon_d2.masks.list_images`, for :func:`read_ground_truth`; raises ValueError as that."""
    return list_images(f"coco:{instances},{images}")


def has_ground_truth(record: dict) -> bool:
    """Whether :func:`read_ground_truth` can read one for this record."""
    return _FILE in record or "annotations" in record


def read_ground_truth(record: dict, height: int, width: int) -> list[GroundTruth]:
    """Ground truths of an image of :func:`list_bsds` or :func:`list_coco` that is displayed with this height and width in pixels.

    BSDS: one per person, all pixels in segments. COCO: one, of the visible parts of the instances (where two overlap the smaller is on
    top, as in label maps of annotations); segment 0 is the background, crowds are void.

    Raises ValueError: damaged, or of another size than the image; names both files.
    """
    if _FILE in record:
        truths = [GroundTruth(segments) for segments in read_segmentations(record[_FILE])]
        name = record[_FILE]
    else:
        truths = [instance_truth(record["annotations"], record.get("height", height), record.get("width", width))]
        name = "the COCO json"
    for truth in truths:
        if truth.segments.shape != (height, width):
            found, expected = (f"{shape[1]} x {shape[0]}" for shape in (truth.segments.shape, (height, width)))
            raise ValueError(
                f"ground truth: {name} is {found} (width x height), but {record['file_name']} is {expected} after its EXIF orientation; "
                "expected the same size: the image was scaled or rotated, or the folders do not belong together"
            )
    return truths


def instance_truth(annotations: list[dict], height: int, width: int) -> GroundTruth:
    """Instance k of the list is segment k + 1, all other pixels are the background 0, crowds are void; see :func:`read_ground_truth`."""
    segments = annotation_label_map(annotations, height, width)
    crowds = [index + 1 for index, annotation in enumerate(annotations) if annotation.get("iscrowd")]
    segments[np.isin(segments, crowds)] = NO_REGION
    return GroundTruth(segments, background=0)


def read_segmentations(path: str | os.PathLike) -> list[np.ndarray]:
    """Human segmentations of an image, one integer (H, W) array per person. Raises ValueError for another kind of file.

    They are in a ``.mat`` of BSDS500 (``groundTruth{k}.Segmentation``), or in a ``.npz`` with the array ``seg`` (people, H, W).
    """
    try:
        segmentations = _read_mat(path) if str(path).endswith(".mat") else list(np.load(path, allow_pickle=False)["seg"])
    except Exception as error:
        # Damaged files make the readers raise almost any error (zipfile, zlib and struct errors, KeyError, ...).
        raise ValueError(
            f"ground truth: cannot read {path} ({type(error).__name__}: {error}); expected groundTruth of BSDS500 (.mat) or seg (.npz)"
        ) from error
    for segments in segmentations:
        integers = segments.ndim == 2 and segments.size and np.issubdtype(segments.dtype, np.integer)
        if not integers or segments.min() < 0 or segments.max() > NO_REGION:
            raise ValueError(f"ground truth: found {segments.dtype} {segments.shape} in {path}; expected integers 0..65535, (H, W) each")
    if not segmentations:
        raise ValueError(f"ground truth: found no segmentation in {path}; expected at least one")
    return segmentations


def _read_mat(path: str | os.PathLike) -> list[np.ndarray]:
    import scipy.io  # only here: scipy takes half a second to load

    people = scipy.io.loadmat(path, simplify_cells=True, variable_names=["groundTruth"])["groundTruth"]
    # A cell array of one is simplified to its content.
    return [person["Segmentation"] for person in ([people] if isinstance(people, dict) else people)]
