"""Image files by the names that annotations give them."""

import os
import unicodedata
from pathlib import Path
from urllib.parse import unquote, urlsplit

from detcon_d2.io.annotated.text import excerpt


class ImageFiles:
    """The files below a folder, found by the names in a json, xml or list.

    A name is taken as it is, if there is such a file. Otherwise backslashes count as slashes, the forms of a Unicode letter as equal, and
    the name may have more leading folders than the file has below the root, or fewer, as long as one file only can be meant.
    """

    def __init__(self, root: str | os.PathLike) -> None:
        """``root``: the folder of the images. It is searched once, when a name first needs it."""
        self.root = Path(root)
        self._by_name: dict[str, list[tuple[list[str], Path]]] | None = None

    def find(self, name: str) -> Path | None:
        """The file that a name means; None if there is none, or if it may be one of several."""
        literal = self.literal(name)
        if literal.is_file():
            return literal
        parts = [part for part in _slashes(name).split("/") if part not in ("", ".", "..")]
        if self._by_name is None:
            self._by_name = self._index()
        found: list[Path] = []
        best = 0
        for other, path in self._by_name.get(parts[-1] if parts else "", ()):
            common = _common_end(parts, other)
            if common == min(len(parts), len(other)) and common >= best:
                found, best = (found if common == best else []) + [path], common
        return found[0] if len(found) == 1 else None

    def literal(self, name: str) -> Path:
        """The path of a name that is taken as it is, except for backslashes."""
        path = self.root / name
        return path if "\\" not in name or path.exists() else self.root / name.replace("\\", "/")

    def key(self, path: Path) -> str:
        """The path below the root with POSIX slashes; of a file elsewhere the absolute path without its first slash."""
        normal, root = os.path.normpath(path), os.path.normpath(self.root)
        inside = os.path.relpath(normal, root)
        return (Path(normal).relative_to(Path(normal).anchor) if inside.startswith("..") else Path(inside)).as_posix()

    def describe(self, name: str) -> str:
        """What was looked for, for a message."""
        example = next((str(path.relative_to(self.root)) for files in (self._by_name or {}).values() for _, path in files), None)
        below = f"below it is, for example, {example}" if example else "there is no file below it"
        return f"found no file {self.literal(name)}, nor one file with the end of {excerpt(name)} anywhere in {self.root} ({below})"

    def _index(self) -> dict[str, list[tuple[list[str], Path]]]:
        found: dict[str, list[tuple[list[str], Path]]] = {}
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = Path(folder, name)
                parts = _slashes(path.relative_to(self.root).as_posix()).split("/")
                found.setdefault(parts[-1], []).append((parts, path))
        return found


def _slashes(name: str) -> str:
    """The name with slashes and composed letters, of an address only the path."""
    path = unquote(urlsplit(name).path) if "://" in name else name
    return unicodedata.normalize("NFC", path.replace("\\", "/"))


def _common_end(one: list[str], other: list[str]) -> int:
    count = 0
    while count < min(len(one), len(other)) and one[-1 - count] == other[-1 - count]:
        count += 1
    return count
