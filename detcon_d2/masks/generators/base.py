"""The base of all region generators: an image in, one or several maps of region ids out.

A generator is a frozen dataclass. Each of its parameters is a field made by :func:`parameter`, which holds default, help text and range.
The command line, the checks and the parameters in ``index.json`` all come from these fields.
"""

import operator
import typing
from dataclasses import Field, dataclass, field, fields
from typing import ClassVar

import numpy as np

from detcon_d2.masks.cells import NO_REGION

_LIMITS = {"above": (">", operator.gt), "at_least": (">=", operator.ge), "at_most": ("<=", operator.le)}
_READ_BOOL = {"true": True, "false": False}
_EXPECTED = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def parameter(default: object, text: str, *, flag: str | None = None, metavar: str | None = None, **limits: object) -> typing.Any:
    """A field of a generator.

    Args:
        default: its value, of the field's type: bool, int, float, str, or a tuple of one of them.
        text: one line of help.
        flag, metavar: on the command line; None: the field's name with hyphens, and its last word.
        limits: ``above``, ``at_least``, ``at_most``: the range of the value, or of each value of a tuple; ``choices``: the possible
            values; ``required=True``: users must give a value, although there is a default.
    """
    return field(default=default, metadata={"help": text, "flag": flag, "metavar": metavar, **limits})


@dataclass(frozen=True, kw_only=True)
class RegionGenerator:
    """A way to make regions. Its parameters are converted to the types of their fields; raises ValueError for one that is out of range."""

    name: ClassVar[str]
    """In the registry, on the command line and in ``index.json``."""
    needs_annotations: ClassVar[bool] = False
    """Whether it reads the COCO annotations of the record."""
    needs_frames: ClassVar[bool] = False
    """Whether the image must be a frame of a clip."""
    of_whole_image: ClassVar[bool] = False
    """Whether its regions are those of the whole image: the label maps of tiles are then cut from that of the image."""

    def __post_init__(self) -> None:
        for one in fields(self):
            kind, value = element_type(one), getattr(self, one.name)
            object.__setattr__(self, one.name, tuple(map(kind, np.atleast_1d(value).tolist())) if is_list(one) else kind(value))
        for one in fields(self):
            value = getattr(self, one.name)
            for limit in _LIMITS.keys() & one.metadata.keys():
                (sign, within), bound = _LIMITS[limit], one.metadata[limit]
                if not all(within(part, bound) for part in (value if is_list(one) else [value])):
                    self._refuse(one.name, f"{one.name} {sign} {bound}")
            if value not in one.metadata.get("choices", [value]):
                self._refuse(one.name, f"one of {', '.join(one.metadata['choices'])}")

    def _refuse(self, names: str, expected: str) -> typing.NoReturn:
        """Raise the ValueError on one or several parameters, comma separated."""
        found = ", ".join(f"{name} {self.params()[name]!r}" for name in names.split(", "))
        raise ValueError(f"{self.name}: found {found}; expected {expected}")

    @property
    def layers(self) -> int:
        """Label maps per image."""
        return 1

    def params(self) -> dict:
        """What determines the output, as plain values; stored with the label maps."""
        values = {one: getattr(self, one.name) for one in fields(self)}
        return {one.name: list(value) if is_list(one) else value for one, value in values.items()}

    def prepare(self) -> None:
        """Called once, before there are worker processes: compiles what they only load, and logs what is used."""

    def __call__(self, image: np.ndarray, rng: np.random.Generator, record: dict | None = None) -> np.ndarray:
        """The regions of an image uint8 (H, W, 3) RGB, given randomness that belongs to it and its dataset dict: uint16 (H, W), or
        (layers, H, W) for several layers; 65535 = no region. Raises ValueError: this image cannot be used."""
        raise NotImplementedError

    def advice(self, height: int, width: int) -> str | None:
        """Flags to try if the median image, of this size, has too few regions; None: the number of regions is not up to parameters."""
        return None


def is_list(one: Field) -> bool:
    """Whether a parameter has several values."""
    return typing.get_origin(one.type) is tuple


def element_type(one: Field) -> type:
    """The type of a parameter, or of each of its values."""
    return typing.get_args(one.type)[0] if is_list(one) else one.type


def read_value(one: Field, text: str) -> object:
    """The value of a parameter that a text gives; several are comma separated. Raises ValueError for a text of another type."""
    kind = element_type(one)
    read = _READ_BOOL.__getitem__ if kind is bool else kind
    try:
        values = [read(part.strip()) for part in (text.strip("[]").split(",") if is_list(one) else [text])]
    except (ValueError, KeyError):
        raise ValueError(f"found {one.name} {text!r}; expected {_EXPECTED[kind]}, such as {write_value(one.default)}") from None
    return values if is_list(one) else values[0]


def write_value(value: object) -> str:
    """The text that :func:`read_value` reads."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(write_value, value))
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def to_label_map(ids: np.ndarray) -> np.ndarray:
    """Ids 0..65534 as uint16, unchanged; raises ValueError for larger ones, which would wrap around."""
    if ids.max() >= NO_REGION:
        raise ValueError(f"found {int(ids.max()) + 1} regions; expected at most {NO_REGION}: choose parameters that give larger regions")
    return ids.astype(np.uint16)
