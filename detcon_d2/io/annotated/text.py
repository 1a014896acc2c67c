"""Text and json files as people save them: UTF-8 with or without a mark, or UTF-16 with one."""

import codecs
import json
import os
import reprlib
from pathlib import Path

_repr = reprlib.Repr()
_repr.maxlevel, _repr.maxlist, _repr.maxtuple, _repr.maxdict, _repr.maxstring, _repr.maxother = 4, 10, 10, 10, 70, 70


def read_text(path: str | os.PathLike) -> str:
    """The text of a file. Raises ValueError, in one line, for a file that cannot be read or is in another encoding."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} cannot be read: found byte {data[error.start]:#x} at {error.start}, which is not {error.encoding.upper()}; expected a "
            "text file in UTF-8: save it again in that encoding"
        ) from error


def read_json(path: str | os.PathLike) -> object:
    """The content of a json file. Raises ValueError, in one line, as :func:`read_text`, or for one that is damaged or nested too deeply."""
    text = read_text(path)
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: not a json file ({error})") from error
    except RecursionError as error:
        raise ValueError(f"{path} cannot be read: nested too deeply for a json file of annotations") from error


def excerpt(value: object) -> str:
    """A value for a message, in one line of at most 80 characters; nested values are cut before they are written out."""
    text = _repr.repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
