"""The container of what is known of the instances of one image."""

from typing import Any

import torch


class Instances:
    """Fields of equal length (``gt_boxes``, ``scores`` ...) of the instances in an image of ``image_size`` = (height, width).

    ``instances.name = value`` sets a field, ``instances.name`` reads it, ``instances[index]`` indexes all. Names with a leading underscore
    are plain attributes.
    """

    def __init__(self, image_size: tuple[int, int], **kwargs: Any) -> None:
        """``kwargs``: the first fields."""
        self._image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in kwargs.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self._image_size

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            self.set(name, value)

    def __getattr__(self, name: str) -> Any:
        fields = self.__dict__.get("_fields", {})
        if name not in fields:
            raise AttributeError(f"Instances has no field {name!r}; it has {sorted(fields)}.")
        return fields[name]

    def set(self, name: str, value: Any) -> None:
        """Add or replace a field. AssertionError if its length differs from that of the others."""
        if self._fields:
            assert len(value) == len(self), f"Field {name!r} has length {len(value)}, the other fields have length {len(self)}."
        self._fields[name] = value

    def has(self, name: str) -> bool:
        """Whether there is a field ``name``."""
        return name in self._fields

    def remove(self, name: str) -> None:
        """Drop a field; KeyError if there is none."""
        del self._fields[name]

    def get(self, name: str) -> Any:
        """A field; KeyError if there is none."""
        return self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """The dict of all fields itself, not a copy."""
        return self._fields

    def to(self, *args: Any, **kwargs: Any) -> "Instances":
        """``field.to(...)`` of every field that has it."""
        moved = {name: value.to(*args, **kwargs) if hasattr(value, "to") else value for name, value in self._fields.items()}
        return Instances(self._image_size, **moved)

    def __getitem__(self, item: int | slice | torch.Tensor) -> "Instances":
        """All fields indexed; an int keeps one instance. IndexError if it is out of range."""
        if isinstance(item, int):
            position = range(len(self))[item]
            item = slice(position, position + 1)
        return Instances(self._image_size, **{name: value[item] for name, value in self._fields.items()})

    @staticmethod
    def cat(instance_lists: list["Instances"]) -> "Instances":
        """The instances of several Instances of one image, in order; a single one is returned itself.

        The fields of the first are joined: tensors, lists, and whatever has a ``cat``. AssertionError for no Instances or different image
        sizes, KeyError for a field that a later one lacks, ValueError for a field that cannot be joined.
        """
        assert instance_lists and all(isinstance(each, Instances) for each in instance_lists), "Instances.cat takes a list of Instances."
        first = instance_lists[0]
        if len(instance_lists) == 1:
            return first
        sizes = {tuple(each.image_size) for each in instance_lists}
        assert len(sizes) == 1, f"Instances to be joined are of one image, found image sizes {sorted(sizes)}."
        return Instances(first.image_size, **{name: _join([each.get(name) for each in instance_lists]) for name in first.get_fields()})

    def __len__(self) -> int:
        """Number of instances; NotImplementedError while there is no field."""
        for value in self._fields.values():
            return len(value)
        raise NotImplementedError("Instances without fields have no length.")

    def __iter__(self) -> None:
        raise NotImplementedError("Instances are not iterable; index them.")

    def __repr__(self) -> str:
        height, width = self._image_size
        fields = ", ".join(f"{name}: {value}" for name, value in self._fields.items())
        return f"Instances(num_instances={len(self)}, image_height={height}, image_width={width}, fields=[{fields}])"


def _join(values: list[Any]) -> Any:
    if isinstance(values[0], torch.Tensor):
        return torch.cat(values)
    if isinstance(values[0], list):
        return [item for value in values for item in value]
    if hasattr(values[0], "cat"):
        return values[0].cat(values)
    raise ValueError(f"A field of type {type(values[0]).__name__} cannot be joined; use a tensor, a list or a type with cat().")
