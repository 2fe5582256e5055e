"""NNCF's search for fusable patterns in a graph, done once for equal graphs and patterns: most of a quantizer set-up's time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from cachetools import LRUCache

from ovquant.quantization.internals import internals
from ovquant.quantization.stages import digest_of

_MAX_KEPT = 32
_lock = threading.Lock()


class Matches:
    """What was found before."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._found: LRUCache[str, list[list[str]]] = LRUCache(_MAX_KEPT)

    @contextlib.contextmanager
    def remembered(self) -> Iterator[None]:
        """Let NNCF take from here what it found before; for one thread at a time."""
        owner = internals().insertion_point_graph

        def find(graph: Any, pattern: Any, *rest: Any, **named: Any) -> list[list[str]]:
            key = digest_of((_content(graph), _content(pattern.graph), rest, sorted(named.items())))
            found = self._found.get(key)
            if found is None:
                found = self._found[key] = search(graph, pattern, *rest, **named)
            return [list(nodes) for nodes in found]

        with _lock:
            search = owner.find_subgraphs_matching_pattern
            owner.find_subgraphs_matching_pattern = find
            try:
                yield
            finally:
                owner.find_subgraphs_matching_pattern = search


def _content(graph: Any) -> tuple[Any, ...]:
    """Return what matching looks at: the kinds of nodes in their order, other plain attributes, and edges."""
    nodes = [
        (name, sorted((key, _plain(value)) for key, value in attributes.items())) for name, attributes in graph.nodes(data=True)
    ]
    return nodes, list(graph.edges)


def _plain(value: Any) -> Any:
    """Return an attribute's content; those of an operation's own description are told by the name that they have."""
    if isinstance(value, list | tuple | set | frozenset):
        return sorted(repr(_plain(item)) for item in value)
    if isinstance(value, type):
        return value.__qualname__
    return value if isinstance(value, str | int | bool) else type(value).__name__
