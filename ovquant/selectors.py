"""Which operations of a model are meant: by type, name, role, or place."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Literal, TypeAlias

from pydantic import Field, field_validator

from ovquant.configfile import FileModel

ScopeRole: TypeAlias = Literal["first_convolution", "last_matmul", "depthwise", "first_depthwise", "normalization"]

_PLACE = re.compile(r"(\w+)(?:\((\d+)\))?\[(?:(-?\d+)|(-?\d+)?:(-?\d+)?)\]")


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """A place as it is written.

    Attributes:
        kind: OpenVINO type, role or ``block``.
        n_joined: how many results an operation has to join, None for any number.
        index: which ones of that kind.
    """

    kind: str
    n_joined: int | None
    index: int | slice

    @classmethod
    def of(cls, text: str) -> Place:
        """Return the place that a text names.

        Raises:
            ValueError: it names none.
        """
        found = _PLACE.fullmatch(text)
        if found is None:
            raise ValueError(
                f"{text!r} is no place: expected KIND[INDEX] or KIND[START:STOP], such as depthwise[0] or MatMul[-2:]"
            )
        kind, n_joined, index, start, stop = found.groups()
        ends = (None if end is None else int(end) for end in (start, stop))
        return cls(kind, None if n_joined is None else int(n_joined), slice(*ends) if index is None else int(index))


class ScopeSelector(FileModel):
    """Which operations stay in float: the union of all that its lists select.

    Attributes:
        types: OpenVINO operation types, e.g. ``Multiply``.
        patterns: regular expressions, matched from the start of operation names (as NNCF does).
        names: full operation names.
        roles: structural roles, see `ovquant.roles`.
        places: operations by kind and position, see `ovquant.places`.
    """

    types: tuple[str, ...] = Field(default=(), description="OpenVINO operation types, e.g. Multiply")
    patterns: tuple[str, ...] = Field(default=(), description="regular expressions on operation names")
    names: tuple[str, ...] = Field(default=(), description="operation names")
    roles: tuple[ScopeRole, ...] = Field(default=(), description="structural roles")
    places: tuple[str, ...] = Field(default=(), description="operations by kind and position, e.g. depthwise[0] or MatMul[-2:]")

    @field_validator("patterns")
    @classmethod
    def _check_patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        return _checked(patterns, re.compile, "{!r} is no regular expression: {}")

    @field_validator("places")
    @classmethod
    def _check_places(cls, places: tuple[str, ...]) -> tuple[str, ...]:
        return _checked(places, Place.of, "{1}")

    @property
    def is_empty(self) -> bool:
        """True if it selects nothing in any model."""
        return not self.entries

    @property
    def entries(self) -> frozenset[tuple[str, str]]:
        """All that its lists hold, each entry with the name of its list."""
        return frozenset((field, entry) for field in type(self).model_fields for entry in getattr(self, field))

    def __or__(self, other: ScopeSelector) -> ScopeSelector:
        """Return the canonical selector of what either selects."""
        return ScopeSelector(
            **{field: (*getattr(self, field), *getattr(other, field)) for field in type(self).model_fields}
        ).canonical()

    def canonical(self) -> ScopeSelector:
        """Return the same selector with sorted lists that hold nothing twice."""
        return ScopeSelector(**{field: tuple(sorted(set(getattr(self, field)))) for field in type(self).model_fields})


def _checked(entries: tuple[str, ...], read: Callable[[str], object], message: str) -> tuple[str, ...]:
    """Return the entries; all that cannot be read are told at once."""
    faults = []
    for entry in entries:
        try:
            read(entry)
        except (ValueError, re.error) as error:
            faults.append(message.format(entry, error))
    if faults:
        raise ValueError("\n".join(faults))
    return entries


NO_SCOPE = ScopeSelector()
