"""The import rules of the house, read from the sources."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "detcon_d2"
# Folder -> folders of the package it may import (beside itself). d2 and config are allowed to all but masks.
ALLOWED = {
    "io": set(),
    "masks": {"io"},
    "views": {"io", "masks"},
    "losses": {"masks"},
    "modeling": {"masks", "views", "losses"},
    "data": {"io", "masks", "views"},
    "methods": {"masks", "views", "losses", "modeling"},
    "solver": set(),
    "checkpoint": {"io"},
    "engine": {"io", "masks", "views", "data", "losses", "modeling", "methods", "solver", "checkpoint"},
    "evaluation": {"io", "masks", "views", "data", "losses", "modeling", "methods", "solver", "checkpoint"},
    "quickstart": {"io", "masks", "views", "data", "losses", "modeling", "methods", "solver", "checkpoint", "engine", "evaluation"},
    "benchmark": {"io", "masks", "views", "data", "losses", "methods", "solver", "engine", "quickstart", "checkpoint"},
}


def imported_modules(path: Path) -> Iterator[str]:
    """Absolute names of everything that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def test_only_the_door_imports_detectron2():
    for path in sources():
        relative = path.relative_to(PACKAGE)
        if relative.parts[0] == "d2.py" or relative.parts[0] == "detectron2_subset":
            continue
        roots = {name.split(".")[0] for name in imported_modules(path)}
        assert "detectron2" not in roots, relative
        assert not any(name.startswith("detcon_d2.detectron2_subset") for name in imported_modules(path)), relative


def test_the_subset_stands_alone():
    for path in (PACKAGE / "detectron2_subset").rglob("*.py"):
        for name in imported_modules(path):
            assert name.split(".")[0] != "detectron2", path
            assert not name.startswith("detcon_d2") or name.startswith("detcon_d2.detectron2_subset"), (path, name)


@pytest.mark.parametrize("folder", sorted(ALLOWED))
def test_imports_point_forward_only(folder):
    for path in (PACKAGE / folder).rglob("*.py"):
        for name in imported_modules(path):
            parts = name.split(".")
            if parts[0] != "detcon_d2" or len(parts) < 2:
                continue
            target = parts[1]
            assert target in ALLOWED[folder] | {folder} | ({"d2", "config"} if folder not in ("io", "masks") else set()), (path.name, name)


def test_masks_import_neither_torch_nor_the_door():
    for path in [*(PACKAGE / "io").rglob("*.py"), *(PACKAGE / "masks").rglob("*.py")]:
        roots = {name.split(".")[0] for name in imported_modules(path)}
        assert not roots & {"torch", "torchvision", "detectron2"}, path
        assert "detcon_d2.d2" not in set(imported_modules(path)), path


def test_every_file_is_one_thing():
    tools = PACKAGE.parent / "tools"
    for path in [*sources(), *tools.rglob("*.py")]:
        limit = 100 if path.parent == tools else 350
        assert len(path.read_text().splitlines()) <= limit, path
