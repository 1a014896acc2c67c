"""File names in messages and lists: a name can hold anything except a zero byte, also what a terminal would obey."""

import hashlib
import os
import re

_ESCAPED = re.compile(r"\\(\\|[nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")
_MAX_BYTES = 255


def printable(text: str) -> str:
    """The text in one line, with Python's escapes for what cannot be shown: newlines, terminal codes, bytes that are not UTF-8."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def escape_name(name: str) -> str:
    """:func:`printable`, such that :func:`unescape_name` gives the name back."""
    return printable(name.replace("\\", r"\\"))


def unescape_name(text: str) -> str:
    """The inverse of :func:`escape_name`."""
    return _ESCAPED.sub(lambda match: match[0].encode().decode("unicode_escape"), text)


def fit_name(name: str, suffix: str) -> str:
    """``name + suffix`` as a file name of at most 255 bytes, the limit of file systems: a longer one is cut, with a hash of all of it."""
    data, end = os.fsencode(name), os.fsencode(suffix)
    if len(data) + len(end) <= _MAX_BYTES:
        return name + suffix
    mark = f"~{hashlib.sha256(data).hexdigest()[:8]}"
    return data[: _MAX_BYTES - len(end) - len(mark)].decode("utf-8", "ignore") + mark + suffix
