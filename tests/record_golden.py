"""Record the numbers and files of ``test_golden.py``: ``python -m tests.record_golden [--figures-only]``, once for each backend.

Only run this on a commit whose numbers are trusted: it makes whatever this code computes the truth. What is stored is of commit f102709.
Without ``--figures-only`` the checkpoint, the converted backbone and the label maps are written again, and all numbers are deleted;
the numbers of the second backend are then added with ``--figures-only``.
"""

import argparse
import json
import re
import shutil
import tempfile
from pathlib import Path

from detcon_d2 import d2
from tests import golden

COMMIT = "f102709"


def record_files(inputs: Path, folder: Path) -> None:
    """Write label maps, checkpoint and converted backbone as this code makes them."""
    shutil.rmtree(golden.FOLDER, ignore_errors=True)
    golden.FOLDER.mkdir()
    for name, arguments in golden.LABEL_MAPS.items():
        for root, file_format in ((name, "png"), (f"{name}_shards", "shards")):
            golden.make_label_maps(inputs, golden.FOLDER / root, arguments, file_format)
    output = folder / "pretraining"
    golden.run_case(golden.TO_BE_STORED, inputs, output, {})
    for name in (golden.CHECKPOINT, "config.yaml"):
        shutil.copy(output / name, golden.FOLDER)
    # As it was after that iteration: the run went on.
    (golden.FOLDER / "last_checkpoint").write_text(golden.CHECKPOINT)
    golden.run_tool("convert_to_d2.py", golden.FOLDER / golden.CHECKPOINT, folder / "backbone.pkl")
    for name in ("backbone.pkl", "backbone.yaml"):
        shutil.copy(folder / name, golden.FOLDER)


def record_numbers(inputs: Path, folder: Path) -> dict[str, dict]:
    """Case -> numbers, of this backend."""
    label_maps = golden.label_map_folders(folder / "label_maps")
    cases = {name: case for name, case in golden.CASES.items() if not case.golden}
    found = {name: golden.run_case(case, inputs, folder / name, label_maps) for name, case in cases.items()}
    output = folder / "resumed"
    output.mkdir()
    for name in (golden.CHECKPOINT, "last_checkpoint"):
        shutil.copy(golden.FOLDER / name, output)
    return found | {"resume": golden.resume(inputs, output)}


def record_label_maps(inputs: Path, folder: Path) -> dict[str, dict]:
    """Digests of the label maps of each generator, and how many regions each image has."""
    found = {name: golden.make_label_maps(inputs, folder / name, arguments) for name, arguments in golden.GENERATED.items()}
    return {
        "label_maps": {name: golden.tensors_digest(label_maps) for name, label_maps in found.items()},
        "region_counts": {name: golden.region_counts(label_maps) for name, label_maps in found.items()},
    }


def main() -> None:
    """Record for the backend of this process; numbers that are equal on both backends are stored once, under "both"."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures-only", action="store_true", help="keep the stored files, and the numbers of the other backend")
    args = parser.parse_args()
    # The same place each time, because files name it.
    folder = Path(tempfile.gettempdir()) / "detcon_d2_golden"
    shutil.rmtree(folder, ignore_errors=True)
    inputs = golden.write_inputs(folder / "inputs")
    if not args.figures_only:
        record_files(inputs, folder)
    numbers = record_numbers(inputs, folder)
    label_maps = record_label_maps(inputs, folder / "made")
    shutil.rmtree(folder)
    stored = json.loads(golden.NUMBERS.read_text()) if args.figures_only and golden.NUMBERS.exists() else {}
    fingerprints = stored.get("fingerprints", {}) | {d2.BACKEND: golden.fingerprint()}
    cases = stored.get("cases", {})
    for name, found in numbers.items():
        entry = {backend: numbers for backend, numbers in _by_backend(cases.get(name, {})).items() if backend != d2.BACKEND}
        entry[d2.BACKEND] = found
        cases[name] = {"both": found} if len(entry) == 2 and entry["subset"] == entry["detectron2"] else entry
    content = {"commit": COMMIT, "fingerprints": fingerprints, **label_maps, "cases": cases}
    golden.NUMBERS.write_text(_pretty(content))
    equal = sum("both" in entry for entry in cases.values())
    print(f"{len(numbers)} runs recorded for {d2.BACKEND}; {equal} have the same numbers on both backends.")


def _by_backend(entry: dict) -> dict:
    return {"subset": entry["both"], "detectron2": entry["both"]} if "both" in entry else entry


def _pretty(content: dict) -> str:
    """Return JSON with one line per list of numbers."""
    text = json.dumps(content, indent=1)
    return re.sub(r"\[\s*([^][]*?)\s*\]", lambda found: "[" + re.sub(r"\n\s*", " ", found[1]) + "]", text) + "\n"


if __name__ == "__main__":
    main()
