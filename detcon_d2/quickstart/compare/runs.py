"""The runs to compare, read from their folders: pretraining, fine-tuning, and the evaluation of a frozen encoder."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from detcon_d2.checkpoint import read_metadata
from detcon_d2.checkpoint.metadata import PRETRAINED
from detcon_d2.methods import pretraining_class
from detcon_d2.quickstart.results import Points, read_series

KINDS = ("pretraining", "fine-tuning", "evaluation")
_CONVERTED = {"encoder", "style"}
"""Entries of the metadata that a conversion changes; it adds others and keeps the rest."""
_DEPTH = 2
"""How deep runs are looked for below a folder that is none."""


@dataclass(frozen=True)
class Part:
    """What one folder holds.

    Attributes:
        folder: as it was given.
        kind: one of :data:`KINDS`.
        metadata: of its last checkpoint; of an evaluation, that of the checkpoint that was evaluated.
        config: the text of ``config.yaml``, empty where there is none.
        series: the scalars of ``metrics.json``.
        results: the content of ``results.json`` or ``evaluation.json``.
        finished: whether it has what the end of its run writes.
    """

    folder: Path
    kind: str
    metadata: Mapping[str, Any]
    config: str = ""
    series: Mapping[str, Points] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    finished: bool = True

    @property
    def origin(self) -> dict[str, Any]:
        """The metadata of the pretraining that this part started from."""
        if self.kind != "fine-tuning":
            return dict(self.metadata)
        return {key.removeprefix(PRETRAINED): value for key, value in self.metadata.items() if key.startswith(PRETRAINED)}

    def progress(self) -> str:
        """Iterations, such as "100" or "40 of 100 (not finished)"."""
        done, end = self.metadata.get("iterations", 0), self.metadata.get("max_iter", "?")
        return f"{done:,}" if self.finished else f"{done:,} of {end} (not finished)"


@dataclass(frozen=True)
class Run:
    """A row of the comparison: at most one part of each kind, at least one; ``origin`` is the metadata of its pretraining."""

    name: str
    parts: Mapping[str, Part]

    @property
    def origin(self) -> dict[str, Any]:
        return next((self.parts[kind].origin for kind in KINDS if kind in self.parts and self.parts[kind].origin), {})

    @property
    def is_consistent(self) -> bool:
        """Whether the other parts started from the pretraining that is next to them; True where that is not known."""
        source = self.parts.get("pretraining")
        return (
            source is None
            or not source.metadata
            or all(_made_from(source, part) for kind, part in self.parts.items() if kind != "pretraining")
        )


def read_part(folder: Path) -> Part | None:
    """What the folder holds; None where that is no run. Raises ValueError for a file that cannot be read."""
    evaluation, results, config, metrics = (folder / name for name in ("evaluation.json", "results.json", "config.yaml", "metrics.json"))
    if evaluation.is_file():
        content = _read_json(evaluation, "knn", "probe", "train", "test")
        return Part(folder, "evaluation", content.get("metadata", {}), results=content)
    checkpoint = _last_checkpoint(folder)
    text = config.read_text(encoding="utf-8") if config.is_file() else ""
    if not results.is_file() and not (text and (checkpoint or metrics.is_file())):
        return None
    # The writer creates an empty file when training starts.
    series = read_series(metrics) if metrics.is_file() and metrics.stat().st_size else {}
    metadata = (read_metadata(checkpoint) if checkpoint else None) or {}
    method = metadata.get("method") or _architecture(text)
    if pretraining_class(method) is not None and not results.is_file():
        return Part(folder, "pretraining", metadata, text, series, finished=(folder / "model_final.pth").is_file())
    content = {}
    if results.is_file():
        content = _read_json(results, "results", "iteration", "backend")
        if not isinstance(content["results"], dict) or len(content["results"]) != 1:
            raise ValueError(
                f"{results} holds {len(content['results'])} data sets; expected one. Evaluate again with one in DATASETS.TEST."
            )
        if not metadata and os.path.isfile(content.get("weights", "")):
            metadata = read_metadata(content["weights"]) or {}
    return Part(folder, "fine-tuning", metadata, text, series, content, finished=results.is_file())


def read_runs(arguments: Sequence[str]) -> list[Run]:
    """The runs of the command line's arguments ``DIR`` and ``NAME=DIR,DIR``, in their order.

    A folder that is no run stands for the runs below it. Parts of one run find each other by their metadata: a fine-tuning or an evaluation
    belongs to the pretraining whose last checkpoint it started from.

    Raises:
        ValueError: a folder without a run, two runs of one name, or parts that do not fit into one run.
    """
    named, found = {}, []
    for argument in arguments:
        name, equals, folders = argument.rpartition("=")
        if equals and not os.path.isdir(argument):
            if name in named:
                raise ValueError(f"Two runs have the name {name!r}; expected another name for each.")
            named[name] = Run(name, _together(name, [_required(Path(folder)) for folder in folders.split(",")]))
        else:
            found += _parts_below(Path(argument))
    groups: list[list[Part]] = []
    for part in sorted(found, key=lambda part: part.kind != "pretraining"):
        fitting = [group for group in groups if _made_from(group[0], part) or _same_start(group[0], part)]
        if len(fitting) > 1:
            shown = ", ".join(str(group[0].folder) for group in fitting)
            raise ValueError(f"{part.folder} may have started from each of {shown}. Give the runs as NAME=DIR,DIR.")
        if part.kind != "pretraining" and fitting:
            fitting[0].append(part)
        else:
            groups.append([part])
    names = _names([group[0].folder for group in groups])
    runs = [*named.values(), *(Run(name, _together(name, group)) for name, group in zip(names, groups, strict=True))]
    if len({run.name for run in runs}) < len(runs):
        raise ValueError(f"Two runs have one name: {', '.join(run.name for run in runs)}. Name them: NAME=DIR,DIR.")
    return runs


def _made_from(source: Part, part: Part) -> bool:
    """Whether the part started from the last checkpoint of the pretraining."""
    known, origin = source.metadata, part.origin
    return source.kind == "pretraining" and bool(known) and all(origin.get(key) == known[key] for key in known.keys() - _CONVERTED)


def _same_start(first: Part, part: Part) -> bool:
    """Whether a fine-tuning and an evaluation started from the same pretraining, which is not among the folders."""
    a, b = first.origin, part.origin
    shared = a.keys() & b.keys() - _CONVERTED
    return {first.kind, part.kind} == set(KINDS[1:]) and bool(shared) and all(a[key] == b[key] for key in shared)


def _together(name: str, parts: Sequence[Part]) -> dict[str, Part]:
    by_kind: dict[str, Part] = {}
    for part in parts:
        if part.kind in by_kind:
            raise ValueError(
                f"{name} has two folders of {part.kind}: {by_kind[part.kind].folder} and {part.folder}; expected one of each kind. Give "
                "NAME=DIR,DIR for each; the same pretraining may be in several."
            )
        by_kind[part.kind] = part
    return by_kind


def _required(folder: Path) -> Part:
    part = read_part(folder)
    if part is None:
        raise ValueError(
            f"{folder} holds no run; expected an OUTPUT_DIR of train_net (config.yaml with metrics.json, or results.json) or the output of "
            "evaluate_encoder (evaluation.json)."
        )
    return part


def _parts_below(folder: Path) -> list[Part]:
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}; expected an output folder of train_net or evaluate_encoder.")
    part = read_part(folder)
    below = _search(folder, _DEPTH)
    return [one for one in [part, *below] if one is not None] or [_required(folder)]


def _search(folder: Path, depth: int) -> Iterator[Part]:
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir())
    for name in names:
        part = read_part(folder / name)
        if part is not None:
            yield part
        if depth > 1:
            yield from _search(folder / name, depth - 1)


def _architecture(config: str) -> str:
    content = yaml.safe_load(config)
    return content.get("MODEL", {}).get("META_ARCHITECTURE", "") if isinstance(content, dict) else ""


def _last_checkpoint(folder: Path) -> Path | None:
    numbered = sorted(path for path in folder.glob("model_*.pth") if re.fullmatch(r"model_\d+\.pth", path.name))
    final = folder / "model_final.pth"
    return final if final.is_file() else numbered[-1] if numbered else None


def _read_json(path: Path, *keys: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in keys if key not in content]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); expected JSON as this package writes it.") from None
    if missing or not isinstance(content, dict):
        raise ValueError(f"{path} lacks {', '.join(missing)}; expected what this package writes.")
    return content


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' paths from the deepest folder that holds all of them."""
    paths = [folder.resolve() for folder in folders]
    if len(paths) < 2:
        return [path.name for path in paths]
    top = os.path.commonpath([path.parent for path in paths])
    return [os.path.relpath(path, top) for path in paths]
