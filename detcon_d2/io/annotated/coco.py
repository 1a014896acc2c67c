"""COCO's instance json, and LVIS's: images, annotations and categories in one file."""

from collections import Counter
from pathlib import Path, PurePosixPath

from detcon_d2.io.annotated.dataset import LEFT_OUT, REPAIRED, WRONG, AnnotatedData, Findings, normal_id, unique_ids, whole_size
from detcon_d2.io.annotated.foreign import describe_file, describe_folder, describe_json
from detcon_d2.io.annotated.names import ImageFiles
from detcon_d2.io.annotated.text import excerpt, read_json

FILE_MISSING = "the file is not there"
"""Kind of the finding on an image without a file."""
_ID = str | int | float


def read_coco(json_path: Path, root: Path, name: str) -> AnnotatedData:
    """The images of a json with all annotations of them, in the order of the json.

    Ids are matched as numbers also where they are text or 3.0; an annotation may name its image by file name. Annotations of images that
    are not listed are left out, as in pycocotools: subsets are often made by shortening "images" only.

    Args:
        json_path: COCO or LVIS.
        root: the folder of the images.
        name: of the data set, in messages.

    Raises:
        ValueError: no json of this kind, an image or category without a needed key, ids or file names that repeat, or annotations of which
            none belongs to any image.
    """
    if json_path.is_dir():
        raise ValueError(f"{json_path} is a folder; expected a COCO instances json{describe_folder(json_path)}")
    try:
        content = read_json(json_path)
    except ValueError as error:
        raise ValueError(f"{error}{f': it is {kind}' if (kind := describe_file(json_path)) else ''}") from error
    if kind := describe_json(content):
        raise ValueError(f"{json_path} is {kind}")
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise ValueError(f'{json_path}: found no list "images"; expected a COCO instances json')
    findings = Findings()
    records = _read_images(content["images"], ImageFiles(root), json_path, findings)
    listed = content.get("annotations")
    if not isinstance(listed, list | None):
        raise ValueError(f'{json_path}: found "annotations" {excerpt(listed)}; expected a list')
    categories = _read_categories(content.get("categories"), json_path)
    _attach_annotations(listed or [], records, content["images"], categories, json_path, findings)
    _leave_out_root(content.get("categories"), categories, records, findings)
    return AnnotatedData(name, records, categories, findings, has_annotations=listed is not None)


def _read_images(images: list, files: ImageFiles, json_path: Path, findings: Findings) -> list[dict]:
    names = [_image_names(image, number, json_path) for number, image in enumerate(images)]
    records = []
    for image, (name, *others), image_id in zip(images, names, unique_ids([image["id"] for image in images])):
        path = next((found for one in (name, *others) if (found := files.find(one))), None)
        record = {"file_name": str(path or files.literal(name)), "image_id": image_id, "annotations": []}
        record["key"] = files.key(path) if path else PurePosixPath(name.replace("\\", "/")).as_posix()
        if path is None:
            findings.note(FILE_MISSING, WRONG, record, detail=files.describe(name), unit="image")
        for side in ("height", "width"):
            if size := whole_size(image.get(side)):
                record[side] = size
        records.append(record)
    ids, keys = Counter(record["image_id"] for record in records), Counter(record["key"] for record in records)
    if not records or max(len(ids), len(keys)) > min(len(ids), len(keys)) or len(keys) != len(records):
        doubled = [key for key, count in keys.items() if count > 1]
        raise ValueError(
            f"{json_path}: found {len(images)} images with {len(ids)} ids and {len(keys)} file names"
            f"{f' (doubled: {doubled[0]})' if doubled else ''}; expected at least one, each id and file name once"
        )
    return records


def _image_names(image: object, number: int, json_path: Path) -> list[str]:
    """``file_name``, and the end of ``coco_url``: LVIS 1 has only the latter, and the names of LVIS 0.5 are those of other splits."""
    if not isinstance(image, dict):
        raise ValueError(f"{json_path}: images[{number}] is {excerpt(image)}; expected an object with id and file_name")
    names = [str(image["file_name"])] if image.get("file_name") else []
    if isinstance(image.get("coco_url"), str):
        names.append("/".join(image["coco_url"].split("/")[-2:]))
    missing = ([] if isinstance(image.get("id"), _ID) else ["id"]) + ([] if names else ["file_name"])
    if missing:
        raise ValueError(f"{json_path}: an image without {' and '.join(missing)}: images[{number}] is {excerpt(image)}")
    return names


def _read_categories(categories: object, json_path: Path) -> dict:
    if not isinstance(categories, list):
        return {}
    for number, category in enumerate(categories):
        missing = {"id", "name"} - category.keys() if isinstance(category, dict) else {"id", "name"}
        if missing or not isinstance(category["id"], _ID):
            raise ValueError(
                f"{json_path}: a category without {' and '.join(sorted(missing)) or 'id'}: categories[{number}] is {excerpt(category)}"
            )
    ids = unique_ids([category["id"] for category in categories])
    if len(set(ids)) < len(ids):
        raise ValueError(f"{json_path}: found {len(ids)} categories with {len(set(ids))} ids; expected each id once")
    return dict(sorted((one, str(category["name"])) for one, category in zip(ids, categories)))


def _attach_annotations(
    annotations: list, records: list[dict], images: list[dict], categories: dict, json_path: Path, findings: Findings
) -> None:
    by_id = {normal_id(image["id"]): record for image, record in zip(images, records)} | {one["image_id"]: one for one in records}
    by_name: dict[str, dict] = {}
    ids = [normal_id(one.get("id")) for one in annotations if isinstance(one, dict)]
    # pycocotools takes an object with id 0 for one that was never found.
    numbered = len(set(map(str, ids))) == len(annotations) and all(isinstance(one, int) and one > 0 for one in ids)
    found = 0
    for number, source in enumerate(annotations):
        if not isinstance(source, dict):
            findings.note("it is no object", LEFT_OUT, detail=f"annotations[{number}] is {excerpt(source)}")
            continue
        if not numbered:
            findings.note("ids that are absent, repeated or not above 0 are numbered anew", REPAIRED, detail=_entry(number, source, "id"))
        source["id"] = ids[number] if numbered else number + 1
        if "image_id" not in source:
            findings.note("it names no image", LEFT_OUT, detail=_entry(number, source, "image_id"))
            continue
        image_id, record = source["image_id"], None
        if isinstance(image_id, _ID):
            record = by_id.get(normal_id(image_id))
        if record is None and isinstance(image_id, str):
            by_name = by_name or _names(records, images)
            record = by_name.get(image_id)
            if record is not None:
                findings.note("its image_id is a file name", REPAIRED, record, source)
        if record is None:
            findings.note(
                "its image is not listed",
                LEFT_OUT,
                detail=f"annotations[{number}] has image_id {excerpt(image_id)}",
                unit="other annotation",
            )
            continue
        found += 1
        source["image_id"] = record["image_id"]
        record["annotations"].append(source)
        _check_category(source, record, categories, number, findings)
    if annotations and not found:
        of_annotations = next((one["image_id"] for one in annotations if isinstance(one, dict) and "image_id" in one), None)
        raise ValueError(
            f"{json_path}: none of the {len(annotations)} annotations belongs to an image: their image_id is for example "
            f"{excerpt(of_annotations)}, the id of an image {excerpt(images[0]['id'])}; expected the same ids"
        )


def _names(records: list[dict], images: list[dict]) -> dict[str, dict]:
    """Name in the json, key, and both without folders and extension -> record, where it means one image."""
    names = [(str(image.get("file_name")), record["key"]) for image, record in zip(images, records)]
    forms = [{form for name in pair for form in (name, PurePosixPath(name).name, PurePosixPath(name).stem)} for pair in names]
    counts = Counter(form for own in forms for form in own)
    return {form: record for own, record in zip(forms, records) for form in own if counts[form] == 1}


def _check_category(annotation: dict, record: dict, categories: dict, number: int, findings: Findings) -> None:
    if not isinstance(annotation.get("category_id"), _ID):
        findings.note("it has no category", WRONG, record, annotation, _entry(number, annotation, "category_id"))
        return
    category = normal_id(annotation["category_id"])
    if category not in categories and str(category) in categories:
        category = str(category)
    record["annotations"][-1]["category_id"] = category
    if category not in categories:
        expected = f"the ids in categories are {excerpt(list(categories))}" if categories else 'the json has no "categories"'
        findings.note(
            "its category is unknown", WRONG, record, annotation, f"category_id {excerpt(annotation['category_id'])}, but {expected}"
        )


def _leave_out_root(listed: object, categories: dict, records: list[dict], findings: Findings) -> None:
    """Roboflow lists a root category that no object has, and that only serves as the supercategory of the others."""
    if not isinstance(listed, list):
        return
    used = {annotation.get("category_id") for record in records for annotation in record["annotations"]}
    for one, name in list(categories.items()):
        parents = [category.get("supercategory") for category in listed if str(category["name"]) != name]
        if one not in used and name in parents and used:
            del categories[one]
            detail = f"{name} (id {one})"
            findings.note("no object has it, and it is the supercategory of others", LEFT_OUT, detail=detail, unit="category")


def _entry(number: int, source: dict, key: str) -> str:
    return f"annotations[{number}] has {f'{key} {excerpt(source[key])}' if key in source else f'no {key}'}"
