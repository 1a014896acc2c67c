"""Data sets by name, and the metadata of each."""

from collections import UserDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class _Catalog(UserDict):
    def list(self) -> list[str]:
        """Return all names."""
        return list(self)

    def remove(self, name: str) -> None:
        """Remove a data set; KeyError if there is none of this name."""
        self.pop(name)


class _DatasetCatalog(_Catalog):
    """Name -> function without arguments that returns the records (a list of dicts), the same at every call."""

    def register(self, name: str, func: Callable[[], list[dict]]) -> None:
        """Add a data set. AssertionError if ``func`` is not callable or the name is taken."""
        assert callable(func), f"DatasetCatalog.register takes a function, found {func!r}."
        assert name not in self, f"Dataset {name!r} is already registered."
        self[name] = func

    def get(self, name: str) -> list[dict]:
        """Call the function of ``name``; KeyError with the known names if there is none."""
        if name not in self:
            raise KeyError(f"Dataset {name!r} is not registered; available: {', '.join(self)}.")
        return self[name]()


class Metadata(SimpleNamespace):
    """Attributes of one data set (``thing_classes``, ``json_file`` and others). Each can be set once; another value later is an error."""

    name: str = "N/A"

    def __getattr__(self, key: str) -> Any:
        raise AttributeError(f"Attribute {key!r} does not exist in the metadata of dataset {self.name!r}; there are {sorted(vars(self))}.")

    def __setattr__(self, key: str, value: Any) -> None:
        old = vars(self).get(key, value)
        assert old == value, f"Attribute {key!r} in the metadata of {self.name!r} is {old!r} and cannot be changed to {value!r}."
        super().__setattr__(key, value)

    def as_dict(self) -> dict[str, Any]:
        """Return a copy of all attributes."""
        return dict(vars(self))

    def set(self, **kwargs: Any) -> "Metadata":
        """Set several attributes, and return the object. AssertionError if one has another value already."""
        for key, value in kwargs.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        """Return the attribute, or ``default``."""
        return vars(self).get(key, default)


class _MetadataCatalog(_Catalog):
    """Name -> :class:`Metadata`."""

    def get(self, name: str) -> Metadata:
        """Return the one Metadata object of ``name``, which the first call creates."""
        assert name, "A data set has a name."
        return self.setdefault(name, Metadata(name=name))


DatasetCatalog = _DatasetCatalog()
"""The data sets of this process."""

MetadataCatalog = _MetadataCatalog()
"""The metadata of the data sets of this process."""
