"""The search space: genes, and genome <-> code <-> strategy."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from ovquant.layers import ScopeGenes
from ovquant.strategy import Strategy

Genome: TypeAlias = tuple[int, ...]
SCOPE, LAYER = "ignored_scope", "layer"
_DECIDING = ("model_type", "disable_bias_correction")  # whether others have an effect
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Gene:
    """One free choice.

    Attributes:
        name: gene name, with a dot for a part of one (``smooth_quant_alphas.matmul``).
        field: attribute of `Strategy` that it sets; for a layer, a name of its own.
        values: allowed values of that attribute.
        labels: one printable, unique word per value.
    """

    name: str
    field: str
    values: tuple[Any, ...]
    labels: tuple[str, ...]

    @property
    def n_bits(self) -> int:
        """Bits that hold an index into `values`."""
        return max(1, (len(self.values) - 1).bit_length())

    @property
    def order(self) -> tuple[int | None, ...]:
        """Place of each value among the amounts of the gene, the least first; None for all that is no amount."""
        amounts = sorted({value for value in self.values if _is_amount(value)})
        return tuple(amounts.index(value) if _is_amount(value) else None for value in self.values)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A value that a space does not allow, and what was taken in its place.

    Attributes:
        gene: name, as in a target profile.
        wanted: value that is not allowed.
        taken: value that is.
    """

    gene: str
    wanted: Any
    taken: Any

    def __str__(self) -> str:
        """Return a clause for a message, with values as they are written in a profile."""
        wanted, taken = ("null" if value is None else label(value) for value in (self.wanted, self.taken))
        return f"{self.gene} {wanted} is not among the values searched here; {taken} in its place"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """All strategies that a search may try.

    A genome is a tuple with one index per gene. Its code has one base-36 digit per gene. Several genomes may decode to the
    same strategy; the canonical one has the smallest index in every gene.

    Attributes:
        genes: the free genes; those of layers are called by their places and come in the order of `scopes`.
        scopes: what may stay in float.
        base: values of everything that is not free.
        notes: what was dropped from the profile's genes and why, for the user.
    """

    genes: tuple[Gene, ...]
    scopes: ScopeGenes
    base: Strategy
    notes: tuple[str, ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of values per gene."""
        return tuple(len(gene.values) for gene in self.genes)

    @property
    def n_genomes(self) -> int:
        """Number of genomes; an upper bound of the number of strategies."""
        product = 1
        for size in self.sizes:
            product *= size
        return product

    @property
    def digest(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of genes and base."""
        content = [[gene.name, [repr(value) for value in gene.values]] for gene in self.genes]
        text = json.dumps([content, self.base.as_dict()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def strategy_from_genome(self, genome: Genome) -> Strategy:
        """Return the canonical strategy of a genome.

        Raises:
            ValueError: wrong length, or an index out of range.
        """
        self._check(genome)
        chosen = {gene.field: gene.values[index] for gene, index in self._apart_from_scope(genome)}
        scope = self.scopes.selector(*self._scope_part(genome))
        return dataclasses.replace(self.base, **chosen, ignored_scope=scope).canonical()

    def genome_from_strategy(self, strategy: Strategy) -> Genome:
        """Return the canonical genome of a strategy.

        Raises:
            ValueError: the space does not hold that strategy.
        """
        wanted = strategy.canonical()
        choice, bits = self.scopes.genes(wanted.ignored_scope)
        wanted = dataclasses.replace(wanted, ignored_scope=self.scopes.selector(choice, bits))
        by_layer = dict(zip(self.scopes.layers, bits, strict=True))
        genome = []
        for gene in self.genes:
            if gene.field == LAYER:
                genome.append(by_layer[gene.name])
            else:
                genome.append(choice if gene.field == SCOPE else _index_of(gene, wanted))
        found = tuple(genome)
        held = self.strategy_from_genome(found)
        for field in dataclasses.fields(Strategy):
            mine, theirs = getattr(held, field.name), getattr(wanted, field.name)
            if mine != theirs:
                raise ValueError(f"{field.name}={theirs!r} is not in this search space, which has {mine!r} only")
        return found

    def nearest(self, strategy: Strategy) -> tuple[Strategy, list[Change]]:
        """Return the strategy of this space that is most like another one, and by what they differ.

        Numbers become the nearest one that is allowed, all else NNCF's default, or where that is not allowed the first value
        that is. A negative number says that something is off, and none is near to it.

        Args:
            strategy: any that leaves in float what this space holds.
        """
        found, changes = strategy.canonical(), []
        free = {gene.field: gene for gene in self.genes}
        fields = [field.name for field in dataclasses.fields(Strategy) if field.name not in {SCOPE, *_DECIDING}]
        for field in (*_DECIDING, *fields):
            wanted, default = getattr(found, field), getattr(self.base, field)
            gene = free.get(field)
            values = (default,) if gene is None else gene.values
            if not _alike(found, field, wanted, values):
                near = [value for value in values if _is_amount(value)] if _is_amount(wanted) else []
                if near:
                    value = min(near, key=lambda value: abs(value - wanted))
                else:
                    value = next(iter(_alike(found, field, default, values)), values[0])
                changes.append(Change(gene=field if gene is None else gene.name, wanted=wanted, taken=value))
                found = dataclasses.replace(found, **{field: value}).canonical()
        return found, changes

    def _apart_from_scope(self, genome: Genome) -> list[tuple[Gene, int]]:
        pairs = zip(self.genes, genome, strict=True)
        return [(gene, index) for gene, index in pairs if gene.field not in {SCOPE, LAYER}]

    def _scope_part(self, genome: Genome) -> tuple[int, list[int]]:
        """Return the choice of scope and the bits of layers."""
        choice = next((index for gene, index in zip(self.genes, genome, strict=True) if gene.field == SCOPE), 0)
        return choice, [index for gene, index in zip(self.genes, genome, strict=True) if gene.field == LAYER]

    def leading(self, genome: Genome) -> list[Genome]:
        """Return what `leading` does of this space's layers."""
        return leading(genome, [index for index, gene in enumerate(self.genes) if gene.field == LAYER])

    def canonical_genome(self, genome: Genome) -> Genome:
        """Return the genome with the smallest indices that decodes to the same strategy."""
        return self.genome_from_strategy(self.strategy_from_genome(genome))

    def code_from_genome(self, genome: Genome) -> str:
        """Return the printable code: one base-36 digit per gene (``-`` for a space without free genes)."""
        self._check(genome)
        return "".join(_DIGITS[index] for index in genome) or "-"

    def genome_from_code(self, code: str) -> Genome:
        """Return the genome of a code.

        Raises:
            ValueError: not a code of this space.
        """
        digits = "" if code == "-" else code
        if any(digit not in _DIGITS for digit in digits):
            raise ValueError(f"code {code!r}: only the digits 0-9 and a-z")
        genome = tuple(_DIGITS.index(digit) for digit in digits)
        self._check(genome)
        return genome

    def bits_from_genome(self, genome: Genome) -> str:
        """Return the genome as a bit string, each gene in its fixed number of bits, most significant first."""
        self._check(genome)
        return "".join(format(index, f"0{gene.n_bits}b") for gene, index in zip(self.genes, genome, strict=True))

    def genome_from_bits(self, bits: str) -> Genome:
        """Return the genome of a bit string.

        Raises:
            ValueError: wrong length, other characters than 0 and 1, or a pattern that no value has.
        """
        expected = sum(gene.n_bits for gene in self.genes)
        if len(bits) != expected or set(bits) - {"0", "1"}:
            raise ValueError(f"expected {expected} bits, found {bits!r}")
        genome, start = [], 0
        for gene in self.genes:
            genome.append(int(bits[start : start + gene.n_bits], 2))
            start += gene.n_bits
        self._check(tuple(genome))
        return tuple(genome)

    def encode(self, strategy: Strategy) -> str:
        """Return the one code of a strategy.

        Raises:
            ValueError: the space does not hold that strategy.
        """
        return self.code_from_genome(self.genome_from_strategy(strategy))

    def decode(self, code: str) -> Strategy:
        """Return the one strategy of a code.

        Raises:
            ValueError: not a code of this space.
        """
        return self.strategy_from_genome(self.genome_from_code(code))

    def genomes(self) -> Iterator[Genome]:
        """Yield the canonical genomes, one per strategy, in lexicographic order."""
        for genome in itertools.product(*(range(size) for size in self.sizes)):
            if self.canonical_genome(genome) == genome:
                yield genome

    def neighbours(self, genome: Genome, name: str) -> list[Genome]:
        """Return the genomes that differ from `genome` in the gene called `name` only; none if it is not free."""
        return [
            (*genome[:place], value, *genome[place + 1 :])
            for place, gene in enumerate(self.genes)
            if gene.name == name
            for value in range(len(gene.values))
            if value != genome[place]
        ]

    def labels(self, genome: Genome) -> dict[str, str]:
        """Return gene name -> label of the chosen value."""
        return {gene.name: gene.labels[index] for gene, index in zip(self.genes, genome, strict=True)}

    def genome_from_labels(self, labels: dict[str, str]) -> Genome:
        """Return the genome that `labels` describes (the reverse of that method)."""
        return tuple(gene.labels.index(labels[gene.name]) for gene in self.genes)

    def _check(self, genome: Genome) -> None:
        if len(genome) != len(self.genes):
            raise ValueError(f"expected {len(self.genes)} genes, found {len(genome)}")
        for gene, index in zip(self.genes, genome, strict=True):
            if not 0 <= index < len(gene.values):
                raise ValueError(f"{gene.name}: index {index} is not in 0..{len(gene.values) - 1}")


def leading(genome: Genome, layers: Sequence[int]) -> list[Genome]:
    """Return the genome with the first 1, 4, 16 ... layers left in float, those of the most promise.

    On a table of the digits, with the first two as well, a search was no better after 20 evaluations than Optuna's TPE.

    Args:
        genome: any.
        layers: places of their genes, those of the most promise first.
    """
    counts = [4**power for power in range(len(layers).bit_length()) if 4**power <= len(layers)]
    return [tuple(1 if index in layers[:count] else value for index, value in enumerate(genome)) for count in counts]


def _is_amount(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and value >= 0


def _alike(strategy: Strategy, field: str, wanted: Any, values: Sequence[Any]) -> list[Any]:
    """Return the values of an attribute that give the same model as the wanted one, all else as in `strategy`."""
    same = dataclasses.replace(strategy, **{field: wanted}).canonical()
    return [value for value in values if dataclasses.replace(strategy, **{field: value}).canonical() == same]


def _index_of(gene: Gene, strategy: Strategy) -> int:
    """Return the first value of a gene that a strategy may have.

    Raises:
        ValueError: none.
    """
    for index, value in enumerate(gene.values):
        if dataclasses.replace(strategy, **{gene.field: value}).canonical() == strategy:
            return index
    raise ValueError(f"{gene.name}={getattr(strategy, gene.field)!r} is not in this search space")


def label(value: Any) -> str:
    """Return the word for a gene's value."""
    if value is None:
        return "default"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
