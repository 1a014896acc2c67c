"""Barlow Twins as docs/add_a_method.md shows it: the code and the config are read from the page."""

import re
from pathlib import Path

from tests.conftest import REPO

_PAGE = (REPO / "docs" / "add_a_method.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """The first block of code of the page in a language."""
    return re.search(rf"^```{language}\n(.*?)^```", _PAGE, re.DOTALL | re.MULTILINE)[1]


def write_config(folder: Path) -> str:
    """The page's YAML file; returns its path. Its base is where the repository has it."""
    path = folder / "barlow_twins_R_50.yaml"
    path.write_text(block("yaml").replace("../", f"{REPO / 'configs'}/"))
    return str(path)


# In this module's name space, so that other processes find the class by importing this module.
exec(compile(block("python"), "docs/add_a_method.md", "exec"), globals())
