"""From selectors to operation names: what an ignored scope means in a given model. Pure functions."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Sequence

from ovquant.operations import Operation
from ovquant.places import places
from ovquant.roles import ROLES
from ovquant.selectors import Place, ScopeSelector

_N_NEAREST = 3
_ALIKE = 0.7  # of 1, for the last parts of names
_NOT_LITERAL = re.compile(r"[\\^$.*+?()\[\]{}|]")


def resolve(selector: ScopeSelector, operations: Sequence[Operation]) -> tuple[str, ...]:
    """Return the sorted names of the operations which `selector` selects; empty if it matches nothing.

    Constants, parameters and results are never selected.
    """
    return tuple(sorted({name for names in _selected(selector, operations).values() for name in names}))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """An entry of a selector that matches nothing.

    Attributes:
        field: list of `ScopeSelector` that it is in.
        entry: as it is there.
        nearest: what in the model is nearest to it; empty if nothing is.
    """

    field: str
    entry: str
    nearest: str

    def __str__(self) -> str:
        """Return a clause for a message."""
        return f"{self.field} {self.entry!r} matches nothing in this model" + (
            f" (nearest: {self.nearest})" if self.nearest else ""
        )


def misses(selector: ScopeSelector, operations: Sequence[Operation]) -> list[Miss]:
    """Return the entries of `selector` that match nothing."""
    return [
        Miss(field=field, entry=entry, nearest=_nearest(field, entry, operations))
        for (field, entry), names in _selected(selector, operations).items()
        if not names
    ]


def matching(selector: ScopeSelector, operations: Sequence[Operation]) -> ScopeSelector:
    """Return the canonical selector of the entries that match something; it selects the same."""
    kept: dict[str, list[str]] = {}
    for (field, entry), names in _selected(selector, operations).items():
        if names:
            kept.setdefault(field, []).append(entry)
    return ScopeSelector.model_validate(kept).canonical()


def _selected(selector: ScopeSelector, operations: Sequence[Operation]) -> dict[tuple[str, str], set[str]]:
    """Return the names that each entry of a selector selects, by its list and text."""
    selectable = [operation for operation in operations if operation.is_selectable]
    found: dict[tuple[str, str], set[str]] = {}
    for kind in selector.types:
        found["types", kind] = {operation.name for operation in selectable if operation.type == kind}
    for name in selector.names:
        found["names", name] = {operation.name for operation in selectable if operation.name == name}
    for pattern in selector.patterns:
        found["patterns", pattern] = {operation.name for operation in selectable if re.match(pattern, operation.name)}
    for role in selector.roles:
        found["roles", role] = ROLES[role](operations)
    for place in selector.places:
        found["places", place] = set(places(tuple(operations)).names(place))
    return found


def _nearest(field: str, entry: str, operations: Sequence[Operation]) -> str:
    """Return what in the model is nearest to an entry, for people."""
    selectable = [operation for operation in operations if operation.is_selectable]
    if field == "places":
        return _nearest_place(Place.of(entry), operations)
    if field == "roles":
        return ""
    known = {operation.type if field == "types" else operation.name for operation in selectable}
    text = _NOT_LITERAL.sub("", entry) if field == "patterns" else entry
    return _nearest_word(text, sorted(known))


def _nearest_word(text: str, known: Sequence[str]) -> str:
    """Return the known words nearest to a text; capitals do not count, and neither may what comes before the last slash."""
    lowered = {word.lower(): word for word in known}
    ends = {word.lower().rpartition("/")[2]: word for word in known}
    wanted = text.lower()
    close = [lowered[found] for found in difflib.get_close_matches(wanted, lowered, _N_NEAREST)]
    close += [ends[found] for found in difflib.get_close_matches(wanted.rpartition("/")[2], ends, _N_NEAREST, _ALIKE)]
    return ", ".join(list(dict.fromkeys(close))[:_N_NEAREST])


def _nearest_place(place: Place, operations: Sequence[Operation]) -> str:
    """Return what places of the same kind there are, or else the kinds nearest to it."""
    for n_joined in dict.fromkeys((place.n_joined, None)):
        kind = place.kind if n_joined is None else f"{place.kind}({n_joined})"
        n_members = len(places(tuple(operations)).members(place.kind, n_joined))
        if n_members:
            return f"{kind}[0]" if n_members == 1 else f"{kind}[0] to {kind}[{n_members - 1}]"
    return _nearest_word(place.kind, sorted({operation.type for operation in operations if operation.is_selectable} | set(ROLES)))
