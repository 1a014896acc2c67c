"""The import rules of the package, read from its sources."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import detcon_d2

PACKAGE = Path(__file__).resolve().parents[1] / "detcon_d2"
# Each folder may import those before it in this order, and itself. d2 and config are allowed to all except the first three.
ORDER = ["io", "masks", "views", "data", "losses", "modeling", "methods", "solver", "checkpoint", "evaluation", "engine", "quickstart"]
ORDER += ["model_zoo", "recipe", "experiment", "cli"]
LIGHT = ORDER[:3]


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


def test_only_the_door_imports_detectron2_and_the_subset_is_independent():
    for path in sources():
        relative, names = path.relative_to(PACKAGE).parts[0], set(imported_modules(path))
        subset = {name for name in names if name.startswith("detcon_d2.detectron2_subset")}
        if relative == "detectron2_subset":
            assert {name for name in names if name.startswith("detcon_d2")} == subset, path
        elif relative != "d2.py":
            assert not subset, path
        assert relative == "d2.py" or "detectron2" not in {name.split(".")[0] for name in names}, path


@pytest.mark.parametrize("folder", ORDER)
def test_imports_point_forward_only(folder):
    allowed = set(ORDER[: ORDER.index(folder) + 1]) | (set() if folder in LIGHT else {"d2", "config"})
    for path in (PACKAGE / folder).rglob("*.py"):
        for name in imported_modules(path):
            parts = name.split(".")
            if parts[0] == "detcon_d2" and len(parts) > 1 and parts[1] not in detcon_d2.__all__:
                assert parts[1] in allowed, (path.name, name)


def test_every_folder_is_in_the_order():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert folders == {*ORDER, "detectron2_subset"}


def test_masks_import_neither_torch_nor_the_door():
    for path in [*(PACKAGE / "io").rglob("*.py"), *(PACKAGE / "masks").rglob("*.py")]:
        roots = {name.split(".")[0] for name in imported_modules(path)}
        assert not roots & {"torch", "torchvision", "detectron2"}, path
        assert "detcon_d2.d2" not in set(imported_modules(path)), path


def test_files_are_short():
    tools = PACKAGE.parent / "tools"
    for path in [*sources(), *tools.rglob("*.py")]:
        limit = 100 if path.parent == tools else 300
        assert len(path.read_text().splitlines()) <= limit, path
    assert len((PACKAGE / "methods" / "base.py").read_text().splitlines()) <= 200


def test_folders_have_few_files():
    for folder in [PACKAGE, *(path for path in PACKAGE.rglob("*") if path.is_dir())]:
        if "detectron2_subset" not in folder.parts:
            assert len(list(folder.glob("*.py"))) <= 14, folder


def test_no_module_outside_methods_names_a_method():
    """A method is recognised by its class."""
    for path in sources():
        if path.relative_to(PACKAGE).parts[0] not in ("methods", "__init__.py"):
            strings = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
            assert not strings & {"DetConB", "DetConS"}, path
