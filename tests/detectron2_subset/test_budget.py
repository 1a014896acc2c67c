"""The subset stays small."""

import ast
import io
import tokenize
from pathlib import Path

from detcon_d2 import detectron2_subset

BUDGET = 3000
_SILENT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def count_code_lines(source: str) -> int:
    """Count the lines with code: no blank lines, comments or docstrings."""
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _SILENT:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - _docstring_lines(source))


def _docstring_lines(source: str) -> set[int]:
    lines = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for child in node.body:
            # A string below a name documents it, and is a docstring too.
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant) and isinstance(child.value.value, str):
                lines.update(range(child.lineno, child.end_lineno + 1))
    return lines


def test_blanks_comments_and_docstrings_are_not_counted():
    source = '"""Doc\n\nstring."""\n\n# comment\nx = """a\nb"""  # two lines\n\n\ndef f():\n    """Doc."""\n    return x\n'
    assert count_code_lines(source) == 4


def test_the_subset_stays_within_its_budget():
    root = Path(detectron2_subset.__file__).parent
    counts = {str(path.relative_to(root)): count_code_lines(path.read_text(encoding="utf-8")) for path in sorted(root.rglob("*.py"))}
    assert sum(counts.values()) <= BUDGET, counts
