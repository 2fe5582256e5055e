"""What stays in float, as genes: one choice among selectors, and one bit for each of some layers. Pure functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ovquant.operations import Operation
from ovquant.scopes import resolve
from ovquant.selectors import ScopeSelector


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ScopeGenes:
    """Scopes that a space allows. Several pairs of choice and bits may select the same operations; one of them is canonical.

    Attributes:
        choices: canonical selectors, at least one.
        layers: places of single operations, the most promising to be left in float first.
        chosen: names of the operations that each choice selects.
        names: name of the operation at each place.
    """

    choices: tuple[ScopeSelector, ...]
    layers: tuple[str, ...]
    chosen: tuple[frozenset[str], ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, choices: Sequence[ScopeSelector], layers: Sequence[str], operations: Sequence[Operation]) -> ScopeGenes:
        """Return the genes for a model.

        Raises:
            ValueError: a place is not that of one operation.
        """
        names = []
        for place in layers:
            found = resolve(ScopeSelector(places=(place,)), operations)
            if len(found) != 1:
                raise ValueError(f"{place} is the place of {len(found)} operations, not of one")
            names.append(found[0])
        return cls(
            choices=tuple(choices),
            layers=tuple(layers),
            chosen=tuple(frozenset(resolve(choice, operations)) for choice in choices),
            names=tuple(names),
        )

    def settled(self, choice: int, bits: Sequence[int]) -> tuple[int, tuple[int, ...]]:
        """Return the canonical choice and bits that select the same: the first choice, and no bit that it needs not."""
        found = self.holding(self.chosen[choice] | {name for name, bit in zip(self.names, bits, strict=True) if bit})
        assert found is not None, "a choice selects no more than itself"
        return found

    def holding(self, selected: frozenset[str]) -> tuple[int, tuple[int, ...]] | None:
        """Return the canonical choice and bits that select these operations; None where none do."""
        for index, held in enumerate(self.chosen):
            if held <= selected <= held | set(self.names):
                return index, tuple(int(name in selected - held) for name in self.names)
        return None

    def selector(self, choice: int, bits: Sequence[int]) -> ScopeSelector:
        """Return the selector of the canonical choice and bits that select the same."""
        index, needed = self.settled(choice, bits)
        places = tuple(place for place, bit in zip(self.layers, needed, strict=True) if bit)
        return self.choices[index] | ScopeSelector(places=places)

    def genes(self, selector: ScopeSelector) -> tuple[int, tuple[int, ...]]:
        """Return the canonical choice and bits of a selector that is made of a choice and of places of layers.

        Raises:
            ValueError: it is not.
        """
        for index, choice in enumerate(self.choices):
            more = selector.entries - choice.entries
            if choice.entries <= selector.entries and all(field == "places" and entry in self.layers for field, entry in more):
                return self.settled(index, [int(("places", place) in more) for place in self.layers])
        raise ValueError(f"ignored_scope={selector.model_dump(exclude_defaults=True)!r} is not in this search space")
