"""Data set specs: the images of a data set, their keys and their labels. No image is decoded here.

folder:/path                         every image below the folder; class folders give labels, train/, val/, test/ do not
list:/path/list.txt                  one path per line, optional TAB and integer label
tar:/path/train-{0000..0146}.tar     WebDataset tars (or tar:/path/*.tar); class members (.cls) give labels
video:/path                          every folder of numbered frames below the folder is a clip; class folders of clips give labels
coco: voc: yolo: cityscapes: masks:  annotated data sets, see detcon_d2/io/annotated/kinds.py
"""

import logging
import os
import re
from pathlib import Path

from detcon_d2.io.annotated.kinds import FORMS, absolute, canonical_annotated_spec, is_annotated_spec
from detcon_d2.io.annotated.names import ImageFiles
from detcon_d2.io.annotated.text import read_text
from detcon_d2.io.folders import IMAGE_EXTENSIONS, count_extensions, frame_order, is_frame, list_files
from detcon_d2.io.names import printable
from detcon_d2.io.tar import list_tar_images

SPEC_FORMS = f"folder:/path, {FORMS}, list:/path/list.txt, tar:/path/train-{{0000..0146}}.tar or video:/path"
"""The specs, for messages."""

# In a line with one of these, a path may be quoted, have a label after it, or be written as in Windows.
_UNUSUAL = frozenset("\"',; \\")
_WITH_LABEL = re.compile(r"""["']?(.+?)["']?\s*[,; ]\s*["']?(\d+)["']?""")
# Folders of a data set's parts. Where these are all that there is, they are no classes.
_PART = re.compile(r"(train|training|trainval|val|valid|validation|dev|test|testing|unlabell?ed)[-_]?\d*", re.IGNORECASE)
_log = logging.getLogger(__name__)


def is_dataset_spec(name: str) -> bool:
    """Whether ``name`` is a spec of this module, rather than the name of a data set in Detectron2's catalog."""
    return is_annotated_spec(name) or (":" in name and name.split(":", 1)[0] in _LISTERS)


def list_images(spec: str) -> list[dict]:
    """The images of a data set (see the module; ``~`` is expanded), sorted by key, as Detectron2 dataset dicts.

    The images of ``video:`` are the frames, clip by clip in natural order (frame 2 before frame 10); each also has ``clip``, the path of
    its clip's folder relative to the root, "." for the root itself.

    Returns:
        One dict per image: ``file_name`` (absolute path; in a tar a reference, which ``read_image`` reads), ``key`` (path relative to
        the root, POSIX slashes, extension kept; in a tar WebDataset's key, without extension), ``image_id``
        (COCO's, else the key), and where known ``height``, ``width``, ``label`` (int) and ``annotations`` (COCO's, with the original
        category ids). Raises ValueError: unknown kind, missing path, nothing inside, damaged json or list.
    """
    if not is_dataset_spec(spec):
        raise ValueError(f"data set: found {spec!r}; expected {SPEC_FORMS}")
    kind, rest = spec.split(":", 1)
    if not rest.strip():
        raise ValueError(f"data set: found {spec!r} without a path; expected {kind}:/path")
    if is_annotated_spec(spec):
        return _list_annotated(spec)
    records = _LISTERS[kind](rest)
    return records if kind == "video" else sorted(records, key=lambda record: record["key"])


def canonical_spec(spec: str) -> str:
    """The same spec with absolute paths; the name of a data set in a catalog is returned unchanged."""
    if not is_dataset_spec(spec):
        return spec
    kind, rest = spec.split(":", 1)
    return canonical_annotated_spec(spec) if is_annotated_spec(spec) else f"{kind}:{absolute(rest)}"


def check_output_outside(spec: str, output: str | os.PathLike) -> None:
    """Raise ValueError if files written to ``output`` would later be listed as images of a ``folder:`` or ``video:`` spec."""
    kind, _, rest = spec.partition(":")
    if kind in ("folder", "video") and absolute(output).is_relative_to(absolute(rest)):
        raise ValueError(
            f"output folder: found {output} inside the images of {spec}; expected one outside, or its label maps would count as images: "
            f"for example {absolute(rest)}_masks"
        )


def _record(path: Path, key: str) -> dict:
    return {"file_name": str(path), "image_id": key, "key": key}


def _list_folder(rest: str) -> list[dict]:
    root = absolute(rest)
    if not root.is_dir():
        raise ValueError(f"folder:{rest}: found {'a file' if root.exists() else 'nothing'} at {root}; expected a folder of images")
    files = list(list_files(root))
    paths = [path for path in files if path.suffix.lower() in IMAGE_EXTENSIONS]
    others = count_extensions(path for path in files if path.suffix.lower() not in IMAGE_EXTENSIONS)
    if not paths:
        found = printable(others) or "no files"
        raise ValueError(f"folder:{rest}: found {found}; expected images ({' '.join(sorted(IMAGE_EXTENSIONS))}) in it or below it")
    if others:
        text = "%s: left out: %s. To take images of these kinds along, convert them to PNG or JPEG; read are %s."
        _log.info(text, printable(f"folder:{rest}"), printable(others), " ".join(sorted(IMAGE_EXTENSIONS)))
    records = [_record(path, path.relative_to(root).as_posix()) for path in paths]
    # If all images are in folders, the first folder is the class; labels are the ranks of the sorted names.
    classes = [record["key"].partition("/")[0] for record in records if "/" in record["key"]]
    if len(classes) < len(records):
        return records
    names = sorted(set(classes))
    if all(_PART.fullmatch(name) for name in names):
        text = "%s: found only folders named as parts of a data set (%s), so images have no classes. For classes give one part, such as %s"
        part = next((name for name in names if name.lower().startswith("train")), names[0])
        _log.info(text, printable(f"folder:{rest}"), printable(", ".join(names)), printable(f"folder:{root / part}"))
        return records
    labels = {name: label for label, name in enumerate(names)}
    return [record | {"label": labels[name]} for record, name in zip(records, classes)]


def _list_video(rest: str) -> list[dict]:
    root = absolute(rest)
    if not root.is_dir():
        raise ValueError(f"video:{rest}: found {'a file' if root.exists() else 'nothing'} at {root}; expected a folder of clips")
    files = list(list_files(root))
    clips: dict[Path, list[Path]] = {}
    for path in filter(is_frame, files):
        clips.setdefault(path.parent, []).append(path)
    if not clips:
        raise ValueError(
            f"video:{rest}: found {printable(count_extensions(files)) or 'no files'} and no clip; expected folders of numbered frames, "
            "such as clip/000001.jpg. Make them with: ffmpeg -i clip.mp4 -qscale:v 2 clip/%06d.jpg"
        )
    if others := len(files) - sum(map(len, clips.values())):
        _log.info("%s: left out: %d files that are no numbered images", printable(f"video:{rest}"), others)
    names = {folder: folder.relative_to(root).as_posix() for folder in clips}
    # If all clips are in folders, the first folder is the class, as the first folder of images is that of folder:.
    classes = {name.partition("/")[0] for name in names.values()} if all("/" in name for name in names.values()) else ()
    labels = {name: label for label, name in enumerate(sorted(classes))}
    records = []
    for folder, name in sorted(names.items(), key=lambda item: item[1]):
        label = {"label": labels[name.partition("/")[0]]} if labels else {}
        frames = sorted(clips[folder], key=frame_order)
        records += [_record(path, path.relative_to(root).as_posix()) | {"clip": name} | label for path in frames]
    return records


def _list_annotated(spec: str) -> list[dict]:
    # Imported here, as the readers list folders by this module.
    from detcon_d2.io.annotated.coco import FILE_MISSING
    from detcon_d2.io.annotated.read import read_annotated

    data = read_annotated(spec)
    for finding in data.findings:
        if finding.kind == FILE_MISSING and finding.count == len(data.records):
            raise ValueError(f"{spec}: none of the {finding.count} images is there: {finding.example}")
        if finding.kind == FILE_MISSING:
            _log.warning("%s: %s", spec, finding.line())
    return data.records


def _list_lines(rest: str) -> list[dict]:
    path = absolute(rest)
    try:
        lines = read_text(path).splitlines()
    except ValueError as error:
        raise ValueError(f"list:{rest}: {error}; expected a UTF-8 text file with one image path per line") from error
    used = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip() and not line.lstrip().startswith("#")]
    files = ImageFiles(path.parent)
    # Looking for a million files takes minutes on a network drive. Where the first ones are there, plain paths need no look.
    probe = not all(files.literal(line).is_file() for _, line in used[:3])
    records = [_line_record(line, files, f"{path}, line {number}", probe or bool(_UNUSUAL & set(line))) for number, line in used]
    if len(used) > 1 and not os.path.exists(records[0]["file_name"]) and "label" in records[1] and "label" not in records[0]:
        _log.warning("list:%s: line %d, %r, is no image but a header, and is left out", rest, *used[0])
        del records[0]
    if not records:
        raise ValueError(f"list:{rest}: found no image path in {len(lines)} line(s); expected at least one")
    labelled = sum("label" in record for record in records)
    if labelled not in (0, len(records)):
        raise ValueError(f"list:{rest}: found labels on {labelled} of {len(records)} lines; expected all or none")
    if probe and not any(os.path.exists(record["file_name"]) for record in records):
        raise ValueError(
            f"list:{rest}: none of the {len(records)} images is there: {files.describe(used[0][1])}; expected one path per line, relative "
            "to the list, and where there are labels a TAB and a whole number after it"
        )
    return records


def _line_record(line: str, files: ImageFiles, where: str, probe: bool) -> dict:
    """The record of a line. The key of an image outside the list's folder is its absolute path without the leading slash, which stays the
    same when lines are added or removed; a path relative to the common folder of all images would not."""
    name, *label = line.split("\t")
    path = None
    if probe:
        forms = [(name.strip(), label), (name.strip("\"' "), label)]
        if not label and (match := _WITH_LABEL.fullmatch(line)):
            forms.append((match[1], [match[2]]))
        name, label, path = next(
            ((*form, found) for form in forms if (found := files.find(os.path.expanduser(form[0])))), (name, label, None)
        )
    path = absolute(path or files.literal(os.path.expanduser(name.strip())))
    record = _record(path, files.key(path))
    if not label:
        return record
    try:
        return record | {"label": int(*label)}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: found {line!r}; expected a path, optionally a TAB and one integer label") from error


_LISTERS = {
    "folder": _list_folder,
    "list": _list_lines,
    "tar": lambda rest: list_tar_images(str(absolute(rest)), IMAGE_EXTENSIONS),
    "video": _list_video,
}
