"""The subset stays small."""

import ast
from pathlib import Path

from detcon_d2 import detectron2_subset

BUDGET = 3000


def count_code_lines(source: str) -> int:
    """Count the lines on which a statement or an expression starts or ends: no blank lines, comments or docstrings."""
    nodes = [node for node in ast.walk(ast.parse(source)) if hasattr(node, "lineno")]
    # A string that is a statement documents what is above it.
    strings = {id(node.value) for node in nodes if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)}
    strings |= {id(node) for node in nodes if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)}
    return len({line for node in nodes if id(node) not in strings for line in (node.lineno, node.end_lineno)})


def test_blanks_comments_and_docstrings_are_not_counted():
    source = '"""Doc\n\nstring."""\n\n# comment\nx = """a\nb"""  # two lines\n\n\ndef f():\n    """Doc."""\n    return x\n'
    assert count_code_lines(source) == 4


def test_the_subset_stays_within_its_budget():
    counts = {path.name: count_code_lines(path.read_text()) for path in Path(detectron2_subset.__file__).parent.rglob("*.py")}
    assert sum(counts.values()) <= BUDGET, counts
