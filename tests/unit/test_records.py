"""Records of what was measured."""

from __future__ import annotations

import copy
import dataclasses

from fakes.records import evaluation, latency

from ovquant.records import Latency, sharing


def test_an_equal_latency_of_equal_kernels_is_held_once():
    known: dict[str | None, Latency] = {}
    first = sharing(dataclasses.replace(evaluation(), structure="a", latency=latency(0.5)), known)
    copied = copy.deepcopy(first)
    assert copied.latency is not first.latency
    again = sharing(copied, known)
    assert again == first
    assert again.latency is first.latency


def test_another_latency_of_the_same_kernels_is_kept_as_it_is():
    known: dict[str | None, Latency] = {}
    sharing(dataclasses.replace(evaluation(), structure="a", latency=latency(0.5)), known)
    other = dataclasses.replace(evaluation(), structure="a", latency=latency(0.6))
    assert sharing(other, known) is other


def test_what_was_not_timed_stays_so():
    known: dict[str | None, Latency] = {}
    untimed = dataclasses.replace(evaluation(), latency=None)
    assert sharing(untimed, known) is untimed
    assert not known
