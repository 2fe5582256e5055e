"""Statistics of activations and weights: which ones a pipeline step needs, collected in shared passes, kept in a store.

NNCF attaches *collectors* to tensors. A collector has branches; in each a *reducer* makes one small array of the tensor for
every sample (minimum, mean per channel ...), and an *aggregator* turns those of the first n samples into a range or a mean.
What reducers give is kept, sample by sample: it serves every subset size and every aggregator. Only where the reducer
passes the whole tensor on (histograms) is the aggregator's result kept instead.

What a tensor holds depends, in its last bits, on what else the model hands out: OpenVINO fuses operations and chooses memory
layouts accordingly, each CPU in its own way. Two rules keep statistics those of a plain call. A pass serves only containers
that look at the same sensitive operations in the same way, see `ovquant.quantization.stages`. And a container's own pass is
run on the first samples: what a shared pass gives is used only where it is the same there, bit for bit.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from cachetools import LRUCache

from ovquant.protocols import Array, Sample
from ovquant.quantization import entries, passes
from ovquant.quantization.branches import Branch, description, divided
from ovquant.quantization.internals import internals
from ovquant.quantization.stages import LookedAt, Stage, digest_of, source_of
from ovquant.quantization.store import ArrayStore

_RESULTS_BYTES = 8 << 20  # of aggregators: ranges and means, a few values of each channel
_MAX_SEEN = 64


class Collection:
    """The statistics of one list of calibration samples."""

    def __init__(self, samples: Sequence[Sample], store: ArrayStore, memory_bytes: int) -> None:
        """Keep what is needed.

        Args:
            samples: all of them, in order; a subset of n is the first n.
            store: where statistics are kept.
            memory_bytes: that one pass may take for what it collects.
        """
        self._samples = samples
        self._store = store
        self._memory_bytes = memory_bytes
        self._items = _digest_samples(samples)
        self._results: LRUCache[str, Any] = LRUCache(_RESULTS_BYTES, entries.size_bytes)
        self._seen: LRUCache[str, Mapping[str, str]] = LRUCache(_MAX_SEEN)
        self._headers: dict[str, set[tuple[int, ...]]] = {}  # of entries that were read whole, or written
        self.n_passes = 0

    def fill(self, stage: Stage, container: Any) -> None:
        """Give every collector of a container its statistics; what is missing is collected.

        Raises:
            LookupError: a statistic is not there, as a pass does not give the same twice.
        """
        looked_at = stage.looked_at(container)
        named = self._branches(stage, looked_at, container)
        self._collect(stage, [(looked_at, _unnamed(named))])
        seen = self._seen_in(stage, _unnamed(named))
        for collector, branches in named:
            values = {name: self._result(branch.seen_as(seen)) for name, branch in branches.items()}
            collector.set_cache(collector.create_statistics_container(values))

    def collect(self, stage: Stage, containers: Sequence[Any]) -> None:
        """Collect what containers need and the store lacks, for as many as possible in one pass over the samples."""
        described = []
        for container in containers:
            looked_at = stage.looked_at(container)
            described.append((looked_at, _unnamed(self._branches(stage, looked_at, container))))
        self._collect(stage, described)

    def _collect(self, stage: Stage, described: Sequence[tuple[LookedAt, list[Branch]]]) -> None:
        """Collect for containers that are given by the sensitive operations that they look at, and their branches."""
        groups: dict[LookedAt, list[list[Branch]]] = {}
        for looked_at, branches in described:
            groups.setdefault(looked_at, []).append(branches)
        for members in groups.values():
            self._collect_together(stage, members)

    def _collect_together(self, stage: Stage, members: Sequence[Sequence[Branch]]) -> None:
        """Collect for containers: together as far as that gives each the same as by itself."""
        pending = [(branches, self._seen_in(stage, branches)) for branches in members]
        pending = [member for member in pending if self._missing([member])]
        is_together = True
        while pending:
            chosen = pending if is_together else pending[:1]
            self._pass(stage, self._missing(chosen), [branch for branches, _ in chosen for branch in branches])
            left = [member for member in pending if self._missing([member])]
            is_together = is_together and len(left) < len(pending)
            # What its own pass does not give it is not to be had; `fill` says so.
            pending = left if len(chosen) > 1 else [member for member in left if member is not chosen[0]]

    def _seen_in(self, stage: Stage, branches: Sequence[Branch]) -> Mapping[str, str]:
        """Return what a container's own pass gives at each place for the first samples."""
        key = digest_of(("seen", stage.identity, sorted({branch.place for branch in branches})))
        if key not in self._seen:
            kept = self._store.get(key)
            if kept is None:
                distinct = list({branch.place: branch for branch in branches}.values())
                found = passes.see(stage, distinct, self._samples[: passes.N_SEEN])
                pairs = [(branch.place, bits) for branch, bits in zip(distinct, found, strict=True) if branch.varies]
                kept = [np.array([place for place, _ in pairs]), np.array([bits for _, bits in pairs])]
                self._store.put({key: kept})
            self._seen[key] = {str(place): str(bits) for place, bits in zip(*kept, strict=True)}
        return self._seen[key]

    def _missing(self, members: Sequence[tuple[Sequence[Branch], Mapping[str, str]]]) -> list[Branch]:
        """Return the branches that the store lacks, each once, for as many samples as somebody needs."""
        missing: dict[str, Branch] = {}
        for branches, seen in members:
            for branch in branches:
                known = missing.get(branch.key)
                if (known is None or known.n_samples < branch.n_samples) and not self._is_known(branch.seen_as(seen)):
                    missing[branch.key] = branch
        return list(missing.values())

    def _pass(self, stage: Stage, branches: Sequence[Branch], held: Sequence[Branch]) -> None:
        """Collect branches, in several passes if memory asks for that."""
        for members in divided(branches, self._memory_bytes):
            places = {branch.place for branch in members}
            others = {branch.place: branch for branch in held if branch.place not in places}
            n_samples = max(passes.N_SEEN, *(branch.n_samples for branch in members))
            samples = self._samples[:n_samples]
            found = passes.run(stage, members, list(others.values()), samples)
            self.n_passes += 1
            kept = {}
            for branch, (values, bits) in zip(members, found, strict=True):
                seen = {branch.place: bits} if branch.varies else {}
                is_value = branch.is_aggregated
                entry = entries.encoded(values) if is_value else entries.recorded(values, branch.n_recorded(len(samples)))
                kept[branch.seen_as(seen).key] = entry
                if not is_value:
                    self._note(branch.seen_as(seen).key, entry)
            self._store.put(kept)

    def _branches(self, stage: Stage, looked_at: LookedAt, container: Any) -> list[tuple[Any, dict[str, Branch]]]:
        """Return each collector of a container with its branches by the name that its statistic has for them."""
        digests = stage.digests_with(looked_at)
        return [
            (collector, self._branches_of(stage, digests, point.target_point, collector))
            for _, point, collector in container.get_tensor_collectors()
        ]

    def _branches_of(self, stage: Stage, digests: Mapping[str, str], point: Any, collector: Any) -> dict[str, Branch]:
        node, port = source_of(stage, point)
        tensor = f"{digests[node.get_friendly_name()]}:{port}"
        is_constant = node.get_type_name() == "Constant"
        reducers = {hash(reducer): reducer for reducer in collector.reducers}
        found = {}
        for name, (reducer_hash, output_port, aggregator_hash) in collector._stat_container_kwargs_map.items():
            reducer = reducers[reducer_hash]
            aggregator = collector.aggregators[(reducer_hash, output_port, aggregator_hash)]
            n_samples = min(aggregator.num_samples or len(self._samples), len(self._samples))
            is_aggregated = type(reducer).__name__ == "RawReducer"
            kept = (tensor, "" if is_constant else self._items, description(reducer), output_port)
            result_key = digest_of((kept, description(aggregator), n_samples))
            place = digest_of(kept)
            found[name] = Branch(
                place=place,
                key=result_key if is_aggregated else place,
                result_key=result_key,
                tensor=tensor,
                point=point,
                source=(node, port),
                reducer=reducer,
                port=output_port,
                aggregator=aggregator,
                n_samples=n_samples,
                is_aggregated=is_aggregated,
            )
        return found

    def _is_known(self, branch: Branch) -> bool:
        if branch.result_key in self._results or self._is_input(branch):
            return True
        if branch.is_aggregated:
            return self._store.has(branch.key)
        is_held = any(entries.serves(header, branch.n_samples) for header in self._headers.get(branch.key, ()))
        return is_held or self._recorded(branch) is not None

    def _recorded(self, branch: Branch) -> list[Array] | None:
        """Return what the reducer made of each sample that counts; it may have been collected for fewer and for more."""
        for entry in self._store.entries(branch.key):
            self._note(branch.key, entry)
            arrays = entries.first(entry, branch.n_samples)
            if arrays is not None:
                return arrays
        return None

    def _note(self, key: str, entry: Sequence[Array]) -> None:
        self._headers.setdefault(key, set()).add(tuple(int(number) for number in entry[0]))

    def _result(self, branch: Branch) -> Any:
        """Return what the aggregator makes of a branch's samples."""
        if branch.result_key in self._results:
            return self._results[branch.result_key]
        found = self._of_inputs(branch) if self._is_input(branch) else self._of_passes(branch)
        with contextlib.suppress(ValueError):  # larger than all that may be kept: accurate bias correction asks for whole tensors
            self._results[branch.result_key] = found
        return found

    def _of_passes(self, branch: Branch) -> Any:
        kept = self._store.get(branch.key) if branch.is_aggregated else self._recorded(branch)
        if kept is None:
            raise LookupError("a statistic is not in the store, or a pass gave others than the one before")
        return entries.decoded(kept) if branch.is_aggregated else entries.aggregate(branch.aggregator, kept)

    def _is_input(self, branch: Branch) -> bool:
        """Return whether a reducer is given a model input as it is, for which the model need not be run."""
        node, _ = branch.source
        if node.get_type_name() != "Parameter" or branch.reducer.inplace:
            return False
        name, dtype = min(node.output(0).get_names()), node.get_element_type().to_dtype()
        return all(name in sample and sample[name].dtype == dtype for sample in self._samples[: branch.n_samples])

    def _of_inputs(self, branch: Branch) -> Any:
        name = min(branch.source[0].output(0).get_names())
        tensors = (internals().Tensor(sample[name]) for sample in self._samples[: branch.n_samples])
        arrays = [np.asarray(branch.reducer([tensor])[branch.port].data) for tensor in tensors]
        return entries.aggregate(copy.deepcopy(branch.aggregator), arrays)


def _unnamed(named: Sequence[tuple[Any, Mapping[str, Branch]]]) -> list[Branch]:
    return [branch for _, branches in named for branch in branches.values()]


def _digest_samples(samples: Sequence[Sample]) -> str:
    return digest_of([digest_of(sorted(sample), *(sample[name] for name in sorted(sample))) for sample in samples])
