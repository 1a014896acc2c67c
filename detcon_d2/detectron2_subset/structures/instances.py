"""The container of the fields of the instances in one image."""

from typing import Any

import torch


class Instances:
    """Fields of equal length (``gt_boxes``, ``scores`` and others) of the instances in an image of ``image_size`` = (height, width).

    ``instances.name = value`` sets a field, ``instances.name`` reads it, ``instances[index]`` indexes all fields. Names with a leading
    underscore are ordinary attributes.
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
        """Add or replace a field. AssertionError if its length differs from the length of the other fields."""
        if self._fields:
            assert len(value) == len(self), f"Field {name!r} has length {len(value)}, the other fields have length {len(self)}."
        self._fields[name] = value

    def has(self, name: str) -> bool:
        """Return whether there is a field ``name``."""
        return name in self._fields

    def remove(self, name: str) -> None:
        """Remove a field; KeyError if there is none."""
        del self._fields[name]

    def get(self, name: str) -> Any:
        """Return a field; KeyError if there is none."""
        return self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """Return the dict of all fields itself, not a copy."""
        return self._fields

    def to(self, *args: Any, **kwargs: Any) -> "Instances":
        """Call ``field.to(...)`` of every field that has it."""
        moved = {name: value.to(*args, **kwargs) if hasattr(value, "to") else value for name, value in self._fields.items()}
        return Instances(self._image_size, **moved)

    def __getitem__(self, item: int | slice | torch.Tensor) -> "Instances":
        """Index all fields; an int selects one instance. IndexError if it is out of range."""
        if isinstance(item, int):
            position = range(len(self))[item]
            item = slice(position, position + 1)
        return Instances(self._image_size, **{name: value[item] for name, value in self._fields.items()})

    @staticmethod
    def cat(instance_lists: list["Instances"]) -> "Instances":
        """Join several Instances of one image, in order. The fields of the first are joined: tensors, and types that have a ``cat``.

        AssertionError for different image sizes, KeyError for a field that a later one does not have.
        """
        first = instance_lists[0]
        sizes = {tuple(each.image_size) for each in instance_lists}
        assert len(sizes) == 1, f"Instances to be joined are of one image, found image sizes {sorted(sizes)}."
        fields = {name: [each.get(name) for each in instance_lists] for name in first.get_fields()}
        joined = {name: torch.cat(v) if isinstance(v[0], torch.Tensor) else v[0].cat(v) for name, v in fields.items()}
        return Instances(first.image_size, **joined)

    def __len__(self) -> int:
        """Return the number of instances; NotImplementedError if there is no field."""
        for value in self._fields.values():
            return len(value)
        raise NotImplementedError("Instances without fields have no length.")

    def __iter__(self) -> None:
        raise NotImplementedError("Instances are not iterable; index them.")

    def __repr__(self) -> str:
        height, width = self._image_size
        fields = ", ".join(f"{name}: {value}" for name, value in self._fields.items())
        return f"Instances(num_instances={len(self)}, image_height={height}, image_width={width}, fields=[{fields}])"
