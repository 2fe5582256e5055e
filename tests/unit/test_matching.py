"""Pattern matching is done once for equal graphs, and anew for others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import networkx as nx
import pytest

from ovquant.quantization import matching
from ovquant.quantization.internals import internals
from ovquant.quantization.matching import Matches


def graph(kinds: str = "ab", edges: tuple[tuple[int, int], ...] = ((0, 1),), **attributes: Any) -> nx.MultiDiGraph:
    found = nx.MultiDiGraph()
    for index, kind in enumerate(kinds):
        found.add_node(str(index), type=[kind], **attributes)
    found.add_edges_from((str(start), str(end)) for start, end in edges)
    return found


def pattern(**changes: Any) -> SimpleNamespace:
    return SimpleNamespace(graph=graph(**changes))


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the graphs that NNCF itself searched; it finds all nodes of each."""
    asked: list[Any] = []

    def search(graph: nx.MultiDiGraph, pattern: Any, strict: bool = True) -> list[list[str]]:
        asked.append(graph)
        return [list(graph.nodes)]

    monkeypatch.setattr(internals().insertion_point_graph, "find_subgraphs_matching_pattern", search)
    return asked


def find(*arguments: Any, **named: Any) -> list[list[str]]:
    return internals().insertion_point_graph.find_subgraphs_matching_pattern(*arguments, **named)


def test_equal_graph_is_searched_once(searched):
    matches = Matches()
    for _ in range(3):
        with matches.remembered():
            assert find(graph(), pattern()) == [["0", "1"]]
    assert len(searched) == 1


def test_what_is_done_to_a_result_does_not_change_the_next(searched):
    matches = Matches()
    with matches.remembered():
        find(graph(), pattern())[0].clear()
        assert find(graph(), pattern()) == [["0", "1"]]


OTHERS = {
    "kinds": (graph("ac"), pattern(), {}),
    "order": (graph("ba"), pattern(), {}),
    "edges": (graph(edges=((1, 0),)), pattern(), {}),
    "twice the edge": (graph(edges=((0, 1), (0, 1))), pattern(), {}),
    "class of an attribute": (graph(metatype=int), pattern(), {}),
    "pattern": (graph(), pattern(kinds="xy"), {}),
    "strictness": (graph(), pattern(), {"strict": False}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_graphs_are_searched_anew(searched, name):
    other, other_pattern, named = OTHERS[name]
    matches = Matches()
    with matches.remembered():
        find(graph(), pattern())
        find(other, other_pattern, **named)
    assert len(searched) == 2


def test_few_are_kept(searched, monkeypatch):
    monkeypatch.setattr(matching, "_MAX_KEPT", 2)
    with Matches().remembered():
        for kinds in ("a", "b", "c", "a"):
            find(graph(kinds, edges=()), pattern())
    assert len(searched) == 4


def test_search_is_as_before_afterwards_even_after_a_fault(searched):
    before = internals().insertion_point_graph.find_subgraphs_matching_pattern
    with pytest.raises(KeyError), Matches().remembered():
        raise KeyError
    assert internals().insertion_point_graph.find_subgraphs_matching_pattern is before
