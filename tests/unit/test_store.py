"""The store of arrays: what was put is what is got, by whomever; what cannot be read is passed over."""

from __future__ import annotations

import tempfile
from pathlib import Path

import children
import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ovquant.quantization.store import ArrayStore

KEY, OTHER = "0a" * 32, "b1" * 32
DTYPES = ["float32", "float64", "float16", "int64", "int32", "uint8", "int8", "bool", "complex64", ">f4", "<U7"]


def entries() -> st.SearchStrategy[list[np.ndarray]]:
    shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    return st.lists(st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, shapes)), min_size=1, max_size=12)


def assert_same(found: list[np.ndarray] | None, expected: list[np.ndarray]) -> None:
    assert found is not None
    assert [(array.dtype, array.shape) for array in found] == [(array.dtype, array.shape) for array in expected]
    assert [array.tobytes() for array in found] == [array.tobytes() for array in expected]


def only_file(store: Path) -> Path:
    (path,) = store.iterdir()
    return path


# What was put


@given(st.dictionaries(st.text("0123456789abcdef", min_size=1, max_size=8), entries(), min_size=1, max_size=4))
def test_entries_come_back_bit_for_bit(content):
    with tempfile.TemporaryDirectory() as folder:
        store, other = ArrayStore(Path(folder)), ArrayStore(Path(folder))
        store.put(content)
        for key, entry in content.items():
            assert_same(store.get(key), entry)
            assert_same(other.get(key), entry)
        store.close()
        other.close()


@pytest.mark.parametrize(
    "array",
    [
        np.array(3.5, np.float32),
        np.array(["tensor"]),
        np.zeros((0,), np.float32),
        np.zeros((2, 0, 3), np.int64),
        np.arange(12, dtype=np.float32).reshape(3, 4).T,
        np.arange(12)[::-2],
        np.array([np.nan, np.inf, -np.inf, -0.0], np.float32),
    ],
    ids=["0-d", "text", "empty", "empty with axes", "transposed", "strided", "no plain numbers"],
)
def test_special_arrays_come_back(tmp_path, array):
    ArrayStore(tmp_path).put({KEY: [array, array]})
    assert_same(ArrayStore(tmp_path).get(KEY), [array, array])


def test_arrays_of_an_entry_keep_their_order(tmp_path):
    entry = [np.full(2, index) for index in range(25)]
    ArrayStore(tmp_path).put({KEY: entry})
    assert_same(ArrayStore(tmp_path).get(KEY), entry)


def test_unknown_key_has_no_entry(tmp_path):
    store = ArrayStore(tmp_path)
    store.put({KEY: [np.zeros(2)]})
    assert store.has(KEY)
    assert not store.has(OTHER)
    assert store.get(OTHER) is None


def test_key_is_not_taken_for_a_longer_one(tmp_path):
    store = ArrayStore(tmp_path)
    store.put({"ab": [np.zeros(1)], "abc": [np.ones(1), np.ones(2)]})
    assert_same(store.get("ab"), [np.zeros(1)])
    assert_same(ArrayStore(tmp_path).get("abc"), [np.ones(1), np.ones(2)])


def test_directory_is_made_when_something_is_put(tmp_path):
    store = ArrayStore(tmp_path / "deep" / "store")
    assert not store.has(KEY)
    assert not (tmp_path / "deep").exists()
    store.put({KEY: [np.zeros(2)]})
    assert store.has(KEY)


def test_nothing_to_put_writes_nothing(tmp_path):
    ArrayStore(tmp_path / "store").put({})
    assert not (tmp_path / "store").exists()


def test_all_entries_of_one_call_are_in_one_file(tmp_path):
    ArrayStore(tmp_path).put({KEY: [np.zeros(2)], OTHER: [np.zeros(3)]})
    assert only_file(tmp_path).suffix == ".npz"


def test_entries_outlast_closing(tmp_path):
    store = ArrayStore(tmp_path)
    store.put({KEY: [np.arange(3)]})
    store.close()
    assert_same(store.get(KEY), [np.arange(3)])


# Several instances


def test_another_instance_sees_what_was_put_later(tmp_path):
    first, second = ArrayStore(tmp_path), ArrayStore(tmp_path)
    first.put({KEY: [np.zeros(2)]})
    assert second.has(KEY)
    first.put({OTHER: [np.ones(2)]})
    assert_same(second.get(OTHER), [np.ones(2)])


def test_entry_of_another_process_is_seen(tmp_path):
    store = ArrayStore(tmp_path)
    assert not store.has(KEY)
    children.in_another_process(children.put, tmp_path, KEY, np.arange(4, dtype=np.float32))
    assert_same(store.get(KEY), [np.arange(4, dtype=np.float32)])


def test_new_instance_does_not_have_what_was_in_a_file_that_has_gone(tmp_path):
    ArrayStore(tmp_path).put({KEY: [np.zeros(2)]})
    only_file(tmp_path).unlink()
    assert ArrayStore(tmp_path).get(KEY) is None


# Files that cannot be read


def assert_passed_over(folder: Path, broken: Path, content: bytes) -> None:
    """Check that a store with such a file goes on: another entry is read, the broken one is right or absent, and put anew."""
    broken.write_bytes(content)
    store = ArrayStore(folder)
    assert_same(store.get(OTHER), [np.ones(2)])
    found = store.get(KEY)
    if found is not None:
        assert_same(found, [np.arange(6.0), np.zeros((2, 3), np.float32)])
    store.put({KEY: [np.full(3, 7)]})
    assert_same(store.get(KEY), [np.full(3, 7)])
    store.close()


def broken_store(folder: Path) -> tuple[Path, bytes]:
    """Fill a store; return the file that is to be broken, and its content."""
    ArrayStore(folder).put({KEY: [np.arange(6.0), np.zeros((2, 3), np.float32)]})
    path = only_file(folder)
    ArrayStore(folder).put({OTHER: [np.ones(2)]})
    return path, path.read_bytes()


@given(st.data())
def test_torn_file_is_passed_over(data):
    with tempfile.TemporaryDirectory() as folder:
        path, content = broken_store(Path(folder))
        assert_passed_over(Path(folder), path, content[: data.draw(st.integers(1, len(content) - 1))])


def test_file_of_no_bytes_is_passed_over(tmp_path):
    path, _ = broken_store(tmp_path)
    assert_passed_over(tmp_path, path, b"")


@pytest.mark.parametrize("other", [b"no archive", b"PK\x03\x04", b"\x80\x04N."], ids=["text", "only a mark", "pickle"])
def test_file_of_another_kind_is_passed_over(tmp_path, other):
    path, _ = broken_store(tmp_path)
    assert_passed_over(tmp_path, path, other)


def test_file_with_zeros_in_it_is_passed_over(tmp_path):
    """As after a crash, where blocks were not written."""
    n_bytes = len(broken_store(tmp_path / "whole")[1])
    for start in range(0, n_bytes, 64):
        folder = tmp_path / str(start)
        path, content = broken_store(folder)
        zeros = bytes(len(content[start : start + 64]))
        assert_passed_over(folder, path, content[:start] + zeros + content[start + 64 :])


def test_flipped_bits_in_the_list_of_an_archive_harm_no_other_file(tmp_path):
    path, content = broken_store(tmp_path)
    for place in range(content.index(b"PK\x01\x02"), len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        store = ArrayStore(tmp_path)
        store.get(KEY)
        assert_same(store.get(OTHER), [np.ones(2)])
        store.close()


def test_file_that_turns_unreadable_while_it_is_open_is_passed_over(tmp_path):
    path, content = broken_store(tmp_path)
    store = ArrayStore(tmp_path)
    assert store.has(KEY)
    with path.open("r+b") as stream:
        stream.write(bytes(len(content)))
    assert store.get(KEY) is None
    assert_same(store.get(OTHER), [np.ones(2)])


def test_objects_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "bad.npz", **{f"{KEY}.0": np.array([{"run": "me"}], dtype=object)})
    assert ArrayStore(tmp_path).get(KEY) is None


def test_nothing_that_is_written_needs_unpickling(tmp_path):
    ArrayStore(tmp_path).put({KEY: [np.array(["names", "a"]), np.zeros(2, np.float32)]})
    with np.load(only_file(tmp_path), allow_pickle=False) as file:
        assert {file[name].dtype.hasobject for name in file.files} == {False}


# Writing that fails


class FullError(OSError):
    """No space is left."""


def test_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    store = ArrayStore(tmp_path)

    def fail(stream, **arrays):
        stream.write(b"half of it")
        raise FullError

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", fail)
        with pytest.raises(FullError):
            store.put({KEY: [np.zeros(2)]})
    assert list(tmp_path.iterdir()) == []
    assert not store.has(KEY)
    store.put({KEY: [np.zeros(2)]})
    assert store.has(KEY)


def test_interrupted_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupted(stream, **arrays):
        stream.write(b"half of it")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ArrayStore(tmp_path).put({KEY: [np.zeros(2)]})
    assert list(tmp_path.iterdir()) == []


def test_file_is_complete_before_it_is_there(tmp_path, monkeypatch):
    listed = []
    save = np.savez

    def watched(stream, **arrays):
        save(stream, **arrays)
        listed.extend(tmp_path.glob("*.npz"))
        assert not ArrayStore(tmp_path).has(KEY)

    monkeypatch.setattr(np, "savez", watched)
    ArrayStore(tmp_path).put({KEY: [np.zeros(2)]})
    assert listed == []
    assert ArrayStore(tmp_path).has(KEY)


def test_directory_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    store = ArrayStore(tmp_path / "file" / "store")
    assert not store.has(KEY)
    with pytest.raises(OSError):
        store.put({KEY: [np.zeros(2)]})


def test_many_files_are_read_with_few_open(tmp_path):
    store = ArrayStore(tmp_path)
    n_before = psutil.Process().num_fds()
    for index in range(150):
        store.put({f"{index:x}": [np.array(index)]})
    assert [int(store.get(f"{index:x}")[0]) for index in range(150)] == list(range(150))
    assert psutil.Process().num_fds() - n_before < 100
    store.close()
    assert psutil.Process().num_fds() - n_before < 5
