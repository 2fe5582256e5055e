"""Objects in a file: what was put is what is got."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovquant.errors import OutputError
from ovquant.shelf import Shelf


@given(st.lists(st.recursive(st.none() | st.integers() | st.text(), st.lists)), st.randoms())
def test_objects_come_back_in_any_order(values, random):
    shelf = Shelf()
    places = [shelf.put(value) for value in values]
    asked = list(range(len(values)))
    random.shuffle(asked)
    assert [shelf.get(places[index]) for index in asked] == [values[index] for index in asked]
    assert list(shelf) == values
    assert len(shelf) == len(values)


def test_objects_may_be_put_while_others_are_read():
    shelf = Shelf()
    for value in range(3):
        shelf.put([value] * 1000)
    seen = []
    for value in shelf:
        seen.append(value[0])
        if len(shelf) < 6:
            shelf.put(value)
    assert seen[:3] == [0, 1, 2]
    assert [value[0] for value in shelf] == [0, 1, 2, 0, 1, 2]


def test_nothing_is_left_in_the_folder(tmp_path: Path):
    shelf = Shelf(tmp_path)
    shelf.put("kept")
    assert list(tmp_path.iterdir()) == []
    assert shelf.get(0) == "kept"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_full_disk_says_what_to_do(tmp_path: Path):
    shelf = Shelf(tmp_path)
    shelf._file = Path("/dev/full").open("w+b", buffering=0)  # noqa: SIM115
    with pytest.raises(
        OutputError, match=r"cannot be written or read: .*No space left.*Free some space, and the same command continues"
    ):
        shelf.put("more")


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file.*: cannot be written or read"):
        Shelf(tmp_path / "file" / "below")


def test_what_is_closed_may_be_closed_again():
    shelf = Shelf()
    shelf.close()
    shelf.close()
