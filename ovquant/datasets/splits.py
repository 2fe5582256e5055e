"""Calibration, validation and holdout: disjoint, seeded, recorded."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Container, Mapping, Sequence
from numbers import Number
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

import numpy as np

from ovquant.datasets.files import files_of
from ovquant.datasets.readers import ImageFolder, Part, npz_has, open_source
from ovquant.errors import DataError
from ovquant.job import DataSpec, Source
from ovquant.protocols import Dataset, Sample
from ovquant.runtime import InputInfo
from ovquant.strategy import DEFAULT_SUBSET_SIZE

SplitName: TypeAlias = Literal["calibration", "validation", "holdout"]
Item: TypeAlias = tuple[Part, int]
_CACHE_BYTES = 1 << 30
_MIN_ITEMS = 2
_PARTS: tuple[Part, ...] = ("main", "calibration", "holdout")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Which items serve what: (source, index) pairs, in the order they are used.

    A calibration subset of n items is the first n of `calibration`.
    """

    calibration: tuple[Item, ...]
    validation: tuple[Item, ...]
    holdout: tuple[Item, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the indices by split and source, as plain JSON values."""
        return {
            name: {part: [index for other, index in getattr(self, name) if other == part] for part in _parts(getattr(self, name))}
            for name in ("calibration", "validation", "holdout")
        }


def _parts(items: Sequence[Item]) -> list[str]:
    return list(dict.fromkeys(part for part, _ in items))


class Samples:
    """The items of a job's sources, by split.

    The first that are read are kept in memory, up to 1 GiB. Those of the holdout are not: they are read for a few models only.
    """

    def __init__(
        self, spec: DataSpec, inputs: Sequence[InputInfo], seed: int, *, is_divided: bool = True, left_out: Container[int] = ()
    ) -> None:
        """Open the sources and divide them; undivided, all items of the main source are for validation but those left out.

        Raises:
            DataError: a source cannot be used, or holds too few items.
        """
        self._sources: dict[Part, Dataset] = {"main": open_source(spec.main, "main", spec, inputs)}
        if is_divided:
            main = self._sources["main"]
            if isinstance(main, ImageFolder) and main.labels is not None and spec.class_names is None:
                # The classes of the main source hold for all, whatever classes another one lacks.
                numbered = all(name.isdecimal() for name in main.class_names)
                spec = spec if numbered else spec.model_copy(update={"class_names": main.class_names})
            for part, source in _own_sources(spec, inputs).items():
                self._sources[part] = open_source(source, part, spec, inputs)
            _require_different(self._sources)
            self.split = divide(self._sources, spec, seed)
        else:
            every = [item for item in _shuffled("main", self._sources["main"], seed) if item[1] not in left_out][: spec.max_items]
            self.split = Split(calibration=(), validation=tuple(every), holdout=())
        self._labels: dict[SplitName, list[Any] | None] = {}
        self._shapes: dict[SplitName, dict[str, tuple[int, ...]] | None] = {}
        self._often_read = frozenset({*self.split.calibration, *self.split.validation})
        self._cache: dict[Item, Sample] = {}
        self._cached_bytes = 0

    def items(self, name: SplitName) -> tuple[Item, ...]:
        """Return the items of a split."""
        items: tuple[Item, ...] = getattr(self.split, name)
        return items

    def sample(self, item: Item) -> Sample:
        """Return one item, ready for the model."""
        cached = self._cache.get(item)
        if cached is None:
            part, index = item
            cached = self._sources[part].sample(index)
            size = sum(array.nbytes for array in cached.values())
            if item in self._often_read and self._cached_bytes + size <= _CACHE_BYTES:
                self._cache[item] = cached
                self._cached_bytes += size
        return cached

    def samples(self, name: SplitName, limit: int | None = None) -> Sequence[Sample]:
        """Return the items of a split in order, the first `limit` of them; each is read when it is asked for."""
        return _Lazily(self, self.items(name)[:limit])

    def labels(self, name: SplitName) -> list[Any] | None:
        """Return the labels of a split, or None if the data has none."""
        if name not in self._labels:
            columns = {part: source.labels for part, source in self._sources.items()}
            items = self.items(name)
            is_complete = all(columns[part] is not None for part, _ in items)
            self._labels[name] = [(columns[part] or ())[index] for part, index in items] if is_complete else None
        return self._labels[name]

    def label(self, item: Item) -> Any:
        """Return the label of one item, or None if its source has none."""
        column = self._sources[item[0]].labels
        return None if column is None else column[item[1]]

    def read_all(self) -> None:
        """Read every item once, so that a fault in one is found before any work is done.

        Raises:
            DataError: an item cannot be read, or does not fit the model.
        """
        for name in ("calibration", "validation", "holdout"):
            for item in getattr(self.split, name):
                self.sample(item)

    def shapes(self, name: SplitName) -> dict[str, tuple[int, ...]] | None:
        """Return input name -> shape if all items of a split have the same, else None; each is read for it."""
        if name not in self._shapes:
            found = [{key: array.shape for key, array in sample.items()} for sample in self.samples(name)]
            self._shapes[name] = found[0] if found and all(shapes == found[0] for shapes in found) else None
        return self._shapes[name]

    def name_of(self, item: Item) -> str:
        """Return what the user knows an item by."""
        return self._sources[item[0]].item_name(item[1])


class _Lazily(Sequence[Sample]):
    """Items as a sequence that does not hold them."""

    def __init__(self, samples: Samples, items: Sequence[Item]) -> None:
        self._samples, self._items = samples, items

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return _Lazily(self._samples, self._items[index])
        return self._samples.sample(self._items[index])


def _own_sources(spec: DataSpec, inputs: Sequence[InputInfo]) -> Mapping[Part, Source]:
    """Return the sources beside the main one: as told, or arrays of the main ``.npz`` named after a part."""
    found: dict[Part, Source] = {}
    wanted: tuple[tuple[Part, Source | None], ...] = (("calibration", spec.calibration), ("holdout", spec.holdout))
    for part, source in wanted:
        if source is not None:
            found[part] = source
        elif spec.path.endswith(".npz") and spec.inputs is None and npz_has(Path(spec.path), part, inputs):
            found[part] = Source(path=spec.path)
    return found


def _require_different(sources: Mapping[Part, Dataset]) -> None:
    seen: dict[tuple[str, ...], Part] = {}
    for part, source in sources.items():
        if source.identity in seen:
            raise DataError(
                f"{source.identity[0]}: serves {seen[source.identity]} and {part}: the same items would be used for both. Leave "
                f"{part} out to have the source divided, or name another one"
            )
        seen[source.identity] = part


def divide(sources: Mapping[Part, Dataset], spec: DataSpec, seed: int) -> Split:
    """Divide the items of the sources.

    Calibration and holdout come from their own source where there is one. From the main source calibration items are taken
    first (300 unless told, at most a third), then `max_items` of the rest are chosen, and halved into validation and
    holdout unless holdout has its own source. Every choice is stratified by label where labels are classes.

    Raises:
        DataError: too few items.
    """
    main = _shuffled("main", sources["main"], seed)
    calibration_items = spec.calibration_items or DEFAULT_SUBSET_SIZE
    if "calibration" in sources:
        calibration = _shuffled("calibration", sources["calibration"], seed)[:calibration_items]
    else:
        n_taken = min(calibration_items, max(1, len(main) // 3)) if spec.calibration_items is None else calibration_items
        calibration, main = main[:n_taken], main[n_taken:]
    if "holdout" in sources:
        n_each = None if spec.max_items is None else spec.max_items // 2
        validation, holdout = main[:n_each], _shuffled("holdout", sources["holdout"], seed)[:n_each]
    else:
        main = main[: spec.max_items]
        validation, holdout = _halve(main, sources["main"].labels)
    for name, items in (("validation", validation), ("holdout", holdout)):
        if len(items) < _MIN_ITEMS:
            raise DataError(
                f"data: {len(items)} items are left for {name} after taking {len(calibration)} for calibration, "
                f"at least {_MIN_ITEMS} are needed; give more data or fewer data.calibration_items"
            )
    return Split(calibration=tuple(calibration), validation=tuple(validation), holdout=tuple(holdout))


def _shuffled(part: Part, source: Dataset, seed: int) -> list[Item]:
    """Return all items in a random order in which every stretch holds the classes in nearly equal parts.

    Each class is shuffled, its items are spread evenly over 0..1 with a random offset, and all are sorted by that.
    The order depends on seed, part and the source's own items only.
    """
    rng = np.random.default_rng([seed, _PARTS.index(part)])
    order = rng.permutation(len(source))
    labels = source.labels
    if labels is None or not _are_classes(labels):
        return [(part, int(index)) for index in order]
    by_class: dict[Any, list[int]] = {}
    for index in order:
        by_class.setdefault(labels[index], []).append(int(index))
    places: list[tuple[float, int]] = []
    for members in by_class.values():
        offset = rng.random()
        places.extend(((rank + offset) / len(members), index) for rank, index in enumerate(members))
    return [(part, index) for _, index in sorted(places)]


def _halve(items: Sequence[Item], labels: Sequence[Any] | None) -> tuple[list[Item], list[Item]]:
    """Deal items to two halves, each class in pairs: one of a pair to each half.

    What is left of classes with an odd number goes to the halves in turn, so that neither a class nor the whole differs by
    more than one item.
    """
    is_stratified = labels is not None and _are_classes(labels)
    by_class: dict[Any, list[Item]] = {}
    for item in items:
        by_class.setdefault(labels[item[1]] if is_stratified and labels is not None else None, []).append(item)
    side: dict[Item, int] = {}
    n_left = 0
    for members in by_class.values():
        n_paired = len(members) // 2 * 2
        side.update({item: position % 2 for position, item in enumerate(members[:n_paired])})
        for item in members[n_paired:]:
            side[item] = n_left % 2
            n_left += 1
    return [item for item in items if side[item] == 0], [item for item in items if side[item] == 1]


def _are_classes(labels: Sequence[Any]) -> bool:
    return all(isinstance(label, str | bytes | Number | np.generic) for label in labels)


def fingerprint(spec: DataSpec) -> dict[str, str]:
    """Return source -> SHA-256 of its files' names and contents (for a Python entry: of the file that holds it)."""
    sources = {"main": spec.main, "calibration": spec.calibration, "holdout": spec.holdout}
    return {part: _hash_source(source) for part, source in sources.items() if source is not None}


def _hash_source(source: Source) -> str:
    digest = hashlib.sha256()
    for name, file in files_of(source).items():
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{name}\0{content}\0".encode())
    return digest.hexdigest()
