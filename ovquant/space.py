"""The search space: genes of a profile, cut down to what can matter for a model; genome <-> code <-> strategy."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from ovquant.errors import ConfigError
from ovquant.layers import ScopeGenes
from ovquant.operations import Operation
from ovquant.scopes import matching, misses, resolve
from ovquant.strategy import InferencePrecision, Strategy
from ovquant.targets import Genes, Target

Genome: TypeAlias = tuple[int, ...]
_SCOPE, _LAYER = "ignored_scope", "layer"
_LAYER_LABELS = ("int8", "float")
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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What a space needs to know of model, data and device.

    Attributes:
        operations: the model's operations in topological order.
        n_calibration: calibration items at hand.
        own_precision: the float precision that the profile's compile properties give on the device.
        device_precisions: the float precisions that the device offers.
        may_saturate: the device's 8-bit sums may saturate, which overflow fix is for.
        can_align_channels: NNCF's channel alignment works in the version at hand.
        layers: places of the layers that may be better off in float, the most promising first.
    """

    operations: tuple[Operation, ...]
    n_calibration: int
    own_precision: InferencePrecision
    device_precisions: frozenset[str]
    may_saturate: bool = True
    can_align_channels: bool = True
    layers: tuple[str, ...] = ()


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
        wanted, taken = ("null" if value is None else _label(value) for value in (self.wanted, self.taken))
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
            if gene.field == _LAYER:
                genome.append(by_layer[gene.name])
            else:
                genome.append(choice if gene.field == _SCOPE else _index_of(gene, wanted))
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
        fields = [field.name for field in dataclasses.fields(Strategy) if field.name not in {_SCOPE, *_DECIDING}]
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
        return [(gene, index) for gene, index in pairs if gene.field not in {_SCOPE, _LAYER}]

    def _scope_part(self, genome: Genome) -> tuple[int, list[int]]:
        """Return the choice of scope and the bits of layers."""
        choice = next((index for gene, index in zip(self.genes, genome, strict=True) if gene.field == _SCOPE), 0)
        return choice, [index for gene, index in zip(self.genes, genome, strict=True) if gene.field == _LAYER]

    def leading(self, genome: Genome) -> list[Genome]:
        """Return the genome with the first 1, 2, 4 ... layers left in float, those of the most promise."""
        places = [index for index, gene in enumerate(self.genes) if gene.field == _LAYER]
        counts = [2**power for power in range(len(places).bit_length()) if 2**power <= len(places)]
        return [tuple(1 if index in places[:count] else value for index, value in enumerate(genome)) for count in counts]

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


def nncf_default(target: Target, facts: ModelFacts, **arguments: Any) -> Strategy:
    """Return what `nncf.quantize` does when it is given nothing but model and data, at the profile's own precision.

    Args:
        target: the profile; its NNCF target device is kept.
        facts: of model, data and device.
        arguments: attributes of `Strategy` that are given to NNCF all the same, e.g. the model type.
    """
    default = Strategy(inference_precision=facts.own_precision, target_device=target.nncf_target_device, **arguments)
    return dataclasses.replace(default, subset_size=min(default.subset_size, facts.n_calibration)).canonical()


def build_space(target: Target, facts: ModelFacts) -> SearchSpace:
    """Return the space of a profile for one model.

    Raises:
        ConfigError: a gene has no value left.
    """
    notes: list[str] = []
    genes = target.genes
    columns: list[tuple[str, str, list[tuple[str, Any]]]] = []
    for name in ("preset", "model_type", "fast_bias_correction", "disable_bias_correction"):
        columns.append((name, name, _labelled(getattr(genes, name))))
    columns.append(("overflow_fix", "overflow_fix", _overflow_fixes(genes, facts, notes)))
    for name in ("activations_range_estimator", "weights_range_estimator", "quantizer_propagation_rule"):
        columns.append((name, name, _labelled(getattr(genes, name))))
    columns.append(("activations_per_channel", "activations_per_channel", _per_channel(genes, facts, notes)))
    columns.append(("disable_channel_alignment", "disable_channel_alignment", _alignments(genes, facts, notes)))
    columns.append(("target_device", "target_device", _target_devices(genes, notes)))
    columns.append(("subset_size", "subset_size", _subset_sizes(genes, facts.n_calibration, notes)))
    choices = _scopes(genes, facts.operations, notes)
    columns.append((_SCOPE, _SCOPE, choices))
    for part, types in (("matmul", {"MatMul"}), ("convolution", {"Convolution"})):
        values = _alphas(genes, part, types, facts.operations, notes)
        columns.append((f"smooth_quant_alphas.{part}", f"smooth_quant_alpha_{part}", values))
    columns.append(("inference_precision", "inference_precision", _precisions(genes, facts, notes)))

    base = Strategy(inference_precision=facts.own_precision, target_device=target.nncf_target_device)
    free: list[Gene] = []
    for name, field, values in columns:
        if len(values) == 1:
            base = dataclasses.replace(base, **{field: values[0][1]})
        elif values:
            free.append(
                Gene(
                    name=name,
                    field=field,
                    values=tuple(v for _, v in values),
                    labels=tuple(label for label, _ in values),
                )
            )
    base = dataclasses.replace(base, subset_size=min(base.subset_size, facts.n_calibration))
    layers = facts.layers[: genes.layers.top] if genes.layers is not None else ()
    if genes.layers is not None and len(layers) < genes.layers.top:
        notes.append(f"layers: {len(layers)} genes, not {genes.layers.top}: no other layer seems better off in float by itself")
    free += [Gene(name=place, field=_LAYER, values=(False, True), labels=_LAYER_LABELS) for place in layers]
    scopes = ScopeGenes.of([value for _, value in choices] or [base.ignored_scope], layers, facts.operations)
    return SearchSpace(genes=tuple(free), scopes=scopes, base=base, notes=tuple(notes))


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


def _labelled(values: Sequence[Any] | None) -> list[tuple[str, Any]]:
    return [(_label(value), value) for value in values or ()]


def _label(value: Any) -> str:
    if value is None:
        return "default"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _subset_sizes(genes: Genes, n_calibration: int, notes: list[str]) -> list[tuple[str, Any]]:
    values = genes.subset_size or ()
    kept = sorted({min(value, n_calibration) for value in values})
    too_large = [value for value in values if value > n_calibration]
    if too_large:
        notes.append(f"subset_size {', '.join(map(str, too_large))} -> {n_calibration}: that many calibration items are at hand")
    return _labelled(kept)


def _scopes(genes: Genes, operations: Sequence[Operation], notes: list[str]) -> list[tuple[str, Any]]:
    kept: list[tuple[str, Any]] = []
    seen: dict[tuple[str, ...], str] = {}
    faults = []
    for name, selector in (genes.ignored_scope or {}).items():
        names = resolve(selector, operations)
        missed = misses(selector, operations)
        # Names are those of one model, and so meant for it; all else may be meant for many.
        faults += [f"target genes.ignored_scope.{name}: {miss}" for miss in missed if miss.field == "names"]
        if not names and not selector.is_empty:
            told = [str(miss) for miss in missed if miss.nearest]
            notes.append(f"ignored_scope {name!r} dropped: {'; '.join(told) or 'it matches nothing in this model'}")
        elif names in seen:
            notes.append(f"ignored_scope {name!r} dropped: same operations as {seen[names]!r}")
        else:
            seen[names] = name
            kept.append((name, matching(selector, operations)))
    if faults:
        raise ConfigError("\n".join(faults))
    if genes.ignored_scope and not kept:
        raise ConfigError(
            "target genes.ignored_scope: no choice matches anything in this model; add a choice with an empty mapping {} "
            "to allow ignoring nothing"
        )
    return kept


def _overflow_fixes(genes: Genes, facts: ModelFacts, notes: list[str]) -> list[tuple[str, Any]]:
    values = genes.overflow_fix or ()
    kept = [value for value in values if value != "enable" or facts.may_saturate]
    if kept and len(kept) < len(values):
        notes.append("overflow_fix enable dropped: sums of 8-bit products do not saturate on this device")
        return _labelled(kept)
    return _labelled(values)


def _per_channel(genes: Genes, facts: ModelFacts, notes: list[str]) -> list[tuple[str, Any]]:
    values = genes.activations_per_channel or ()
    if not values or any(operation.type == "GroupConvolution" for operation in facts.operations):
        return _labelled(values)
    notes.append("activations_per_channel dropped: the model has no depthwise convolution, and NNCF allows it for no other")
    return []


def _alignments(genes: Genes, facts: ModelFacts, notes: list[str]) -> list[tuple[str, Any]]:
    values = genes.disable_channel_alignment or ()
    reason = None
    if not facts.can_align_channels:
        reason = "channel alignment fails in this version of NNCF"
    elif sum(operation.type in {"Convolution", "GroupConvolution"} for operation in facts.operations) < 2:
        reason = "the model has no two convolutions whose channels could be aligned"
    if False not in values or reason is None:
        return _labelled(values)
    notes.append(f"disable_channel_alignment false dropped: {reason}")
    return _labelled([value for value in values if value])


def _target_devices(genes: Genes, notes: list[str]) -> list[tuple[str, Any]]:
    kept: dict[bool, str] = {}
    for value in genes.target_device or ():
        other = kept.setdefault(value == "CPU_SPR", value)
        if other != value:
            notes.append(f"target_device {value} dropped: NNCF quantizes to 8 bits for it as for {other}")
    return _labelled(list(kept.values()))


def _alphas(genes: Genes, part: str, types: set[str], operations: Sequence[Operation], notes: list[str]) -> list[tuple[str, Any]]:
    values: Sequence[float] | None = getattr(genes.smooth_quant_alphas, part, None)
    if values is None:
        return []
    if not any(operation.type in types for operation in operations):
        notes.append(f"smooth_quant_alphas.{part} dropped: the model has no {' or '.join(sorted(types))}")
        return []
    return _labelled(list(dict.fromkeys(float(value) if value >= 0 else -1.0 for value in values)))


def _precisions(genes: Genes, facts: ModelFacts, notes: list[str]) -> list[tuple[str, Any]]:
    values = genes.inference_precision or ()
    kept = [value for value in values if value in facts.device_precisions]
    dropped = [value for value in values if value not in facts.device_precisions]
    if dropped:
        notes.append(f"inference_precision {', '.join(dropped)} dropped: the device does not offer it")
    if values and not kept:
        raise ConfigError(
            f"target genes.inference_precision: the device offers {', '.join(sorted(facts.device_precisions))}, "
            f"the target allows {', '.join(values)}"
        )
    return _labelled(kept)
