"""Calibration, validation and holdout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovquant.datasets.splits import Samples, Split, divide, fingerprint
from ovquant.errors import DataError
from ovquant.job import DataSpec, Source
from ovquant.runtime import InputInfo

VECTOR = (InputInfo(name="features", shape=(None, 2), dtype=np.dtype("float32")),)


class Listed:
    """A data set of nothing but labels."""

    def __init__(self, n_items: int, labels: Sequence[Any] | None = None) -> None:
        self._n_items, self.labels, self.identity = n_items, labels, ("listed",)

    def __len__(self) -> int:
        return self._n_items

    def sample(self, index: int) -> dict[str, np.ndarray]:
        return {"features": np.full((1, 2), index, np.float32)}

    def item_name(self, index: int) -> str:
        return f"item {index}"


def spec(**options) -> DataSpec:
    return DataSpec(path="main.npz", **options)


def indices(items: Sequence[tuple[str, int]]) -> list[int]:
    return [index for _, index in items]


def classes(items: Sequence[tuple[str, int]], source: Listed) -> Counter:
    return Counter(source.labels[index] for _, index in items)


@st.composite
def sources(draw: st.DrawFn, min_size: int = 16) -> Listed:
    n_items = draw(st.integers(min_size, 120))
    label = draw(st.sampled_from(["none", "classes", "words", "values", "boxes"]))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    kinds: dict[str, Any] = {
        "none": None,
        "classes": rng.integers(0, draw(st.integers(1, 8)), n_items).tolist(),
        "words": rng.choice(["cat", "dog", "emu"], n_items).tolist(),
        "values": rng.normal(size=n_items).tolist(),
        "boxes": list(rng.normal(size=(n_items, 4))),
    }
    return Listed(n_items, kinds[label])


@st.composite
def classified(draw: st.DrawFn) -> Listed:
    n_items = draw(st.integers(12, 150))
    labels = draw(st.lists(st.integers(0, 5), min_size=n_items, max_size=n_items))
    return Listed(n_items, labels)


SEEDS = st.integers(0, 2**32 - 1)


@given(sources(), SEEDS, st.none() | st.integers(1, 4), st.none() | st.integers(10, 50))
def test_splits_are_disjoint_and_within_the_source(source, seed, calibration_items, max_items):
    split = divide({"main": source}, spec(calibration_items=calibration_items, max_items=max_items), seed)
    every = [*split.calibration, *split.validation, *split.holdout]
    assert len(set(every)) == len(every)
    assert {part for part, _ in every} == {"main"}
    assert set(indices(every)) <= set(range(len(source)))


@given(sources(), SEEDS)
def test_no_item_is_lost_without_limits(source, seed):
    split = divide({"main": source}, spec(), seed)
    assert len(split.calibration) + len(split.validation) + len(split.holdout) == len(source)


@given(sources(), SEEDS)
def test_same_seed_gives_the_same_split(source, seed):
    assert divide({"main": source}, spec(), seed) == divide({"main": source}, spec(), seed)


@given(sources(min_size=30), SEEDS)
def test_another_seed_gives_another_split(source, seed):
    assert divide({"main": source}, spec(), seed) != divide({"main": source}, spec(), (seed + 1) % 2**32)


@given(classified(), SEEDS)
def test_every_class_is_halved_between_validation_and_holdout(source, seed):
    split = divide({"main": source}, spec(), seed)
    validation, holdout = classes(split.validation, source), classes(split.holdout, source)
    assert all(abs(validation[label] - holdout[label]) <= 1 for label in set(source.labels))


@given(classified(), SEEDS, st.integers(1, 100))
def test_every_stretch_of_the_calibration_items_holds_the_classes_in_nearly_equal_parts(source, seed, n_items):
    own = {"main": Listed(10), "calibration": source}
    split = divide(own, spec(calibration_items=n_items), seed)
    total, taken = Counter(source.labels), classes(split.calibration, source)
    for label, count in total.items():
        expected = len(split.calibration) * count / len(source)
        slack = 1 + len(total) * count / len(source)
        assert abs(taken[label] - expected) <= slack


@given(st.integers(6, 120), SEEDS)
def test_unlabelled_items_are_halved(n_items, seed):
    split = divide({"main": Listed(n_items)}, spec(), seed)
    assert abs(len(split.validation) - len(split.holdout)) <= 1


@given(st.integers(6, 120), SEEDS)
def test_items_with_labels_of_their_own_are_halved(n_items, seed):
    split = divide({"main": Listed(n_items, [0.5 + i for i in range(n_items)])}, spec(), seed)
    assert abs(len(split.validation) - len(split.holdout)) <= 1


@given(sources(min_size=20), SEEDS, st.integers(1, 10), st.integers(1, 10))
def test_smaller_calibration_sets_are_prefixes_of_larger_ones(source, seed, n_items, n_more):
    small = divide({"main": source}, spec(calibration_items=min(n_items, n_more)), seed).calibration
    large = divide({"main": source}, spec(calibration_items=max(n_items, n_more)), seed).calibration
    assert large[: len(small)] == small


@given(sources(), SEEDS)
def test_calibration_takes_a_third_at_most_unless_told(source, seed):
    assert len(divide({"main": source}, spec(), seed).calibration) == len(source) // 3


def test_calibration_takes_300_at_most_unless_told():
    assert len(divide({"main": Listed(3000)}, spec(), 0).calibration) == 300
    assert len(divide({"main": Listed(3000)}, spec(calibration_items=700), 0).calibration) == 700


@given(sources(), sources(), SEEDS)
def test_own_calibration_source_leaves_the_main_one_whole(source, own, seed):
    split = divide({"main": source, "calibration": own}, spec(), seed)
    assert {part for part, _ in split.calibration} == {"calibration"}
    assert sorted(indices(split.calibration)) == list(range(len(own)))
    assert sorted(indices([*split.validation, *split.holdout])) == list(range(len(source)))


@given(sources(), sources(), SEEDS)
def test_own_holdout_source_leaves_the_rest_of_the_main_one_to_validation(source, own, seed):
    split = divide({"main": source, "holdout": own}, spec(), seed)
    assert sorted(split.holdout) == [("holdout", index) for index in range(len(own))]
    assert sorted(indices([*split.calibration, *split.validation])) == list(range(len(source)))


@given(sources(), sources(), sources(), SEEDS)
def test_calibration_order_does_not_depend_on_the_other_sources(own, source, other, seed):
    alone = divide({"main": source, "calibration": own}, spec(), seed).calibration
    beside = divide({"main": other, "calibration": own, "holdout": source}, spec(max_items=4), seed).calibration
    assert alone == beside


@given(sources(min_size=20), sources(), SEEDS)
def test_calibration_from_the_main_source_does_not_depend_on_a_holdout_source(source, own, seed):
    alone = divide({"main": source}, spec(), seed).calibration
    assert divide({"main": source, "holdout": own}, spec(), seed).calibration == alone


@given(sources(min_size=30), SEEDS, st.integers(6, 60))
def test_max_items_limits_validation_and_holdout_together(source, seed, max_items):
    split = divide({"main": source}, spec(max_items=max_items), seed)
    available = len(source) - len(split.calibration)
    assert len(split.validation) + len(split.holdout) == min(max_items, available)


def test_max_items_limits_validation_and_a_holdout_source_together():
    split = divide({"main": Listed(60), "holdout": Listed(60)}, spec(max_items=20), 0)
    assert len(split.validation) + len(split.holdout) <= 20


def test_six_items_are_enough_whatever_the_seed():
    source = Listed(6, [0, 0, 0, 0, 1, 1])
    for seed in range(40):
        split = divide({"main": source}, spec(), seed)
        assert (len(split.calibration), len(split.validation), len(split.holdout)) == (2, 2, 2)


class Watched(list):
    """Labels that count how often somebody goes through all of them."""

    n_passes = 0

    def __iter__(self):
        self.n_passes += 1
        return super().__iter__()


def test_labels_are_gone_through_equally_often_however_many_there_are():
    few, many = Watched(i % 3 for i in range(30)), Watched(i % 3 for i in range(300))
    divide({"main": Listed(len(few), few)}, spec(), 0)
    divide({"main": Listed(len(many), many)}, spec(), 0)
    assert few.n_passes == many.n_passes > 0


def test_max_items_leaves_the_calibration_items_alone():
    assert divide({"main": Listed(60)}, spec(max_items=6), 0).calibration == divide({"main": Listed(60)}, spec(), 0).calibration


@pytest.mark.parametrize(
    ("n_items", "options"), [(4, {}), (10, {"calibration_items": 7}), (10, {"calibration_items": 50}), (1, {})]
)
def test_too_few_items_are_refused_with_the_counts(n_items, options):
    with pytest.raises(
        DataError, match=r"data: \d+ items are left for \w+ after taking \d+ for calibration, at least 2 are needed"
    ):
        divide({"main": Listed(n_items)}, spec(**options), 0)


def test_too_few_items_in_a_holdout_source_are_refused():
    with pytest.raises(DataError, match="data: 1 items are left for holdout"):
        divide({"main": Listed(30), "holdout": Listed(1)}, spec(), 0)


def test_split_as_dict_lists_the_indices_by_source():
    split = Split(calibration=(("calibration", 4), ("calibration", 1)), validation=(("main", 2),), holdout=(("main", 0),))
    assert split.as_dict() == {"calibration": {"calibration": [4, 1]}, "validation": {"main": [2]}, "holdout": {"main": [0]}}


def test_sources_of_one_size_are_put_in_orders_of_their_own():
    split = divide({"main": Listed(60), "calibration": Listed(60), "holdout": Listed(60)}, spec(), 0)
    orders = [indices(split.calibration), indices(split.validation), indices(split.holdout)]
    assert all(sorted(order) == list(range(60)) for order in orders)
    assert orders[0] != orders[1] != orders[2] != orders[0]


# Opened samples


def write_npz(path: Path, n_items: int = 30, **more: np.ndarray) -> Path:
    x = np.stack([np.arange(n_items), np.zeros(n_items)], axis=1).astype(np.float32)
    np.savez(path, x=x, y=np.arange(n_items) % 3, **more)
    return path


def test_samples_and_labels_follow_the_items(tmp_path):
    samples = Samples(DataSpec(path=str(write_npz(tmp_path / "d.npz"))), VECTOR, 0)
    for name in ("calibration", "validation", "holdout"):
        numbers = [int(sample["features"][0, 0]) for sample in samples.samples(name)]
        assert numbers == indices(samples.items(name))
        assert samples.labels(name) == [number % 3 for number in numbers]


def test_items_stay_in_memory_but_those_of_the_holdout(tmp_path):
    samples = Samples(DataSpec(path=str(write_npz(tmp_path / "main.npz"))), VECTOR, 0)
    for name, is_kept in (("calibration", True), ("validation", True), ("holdout", False)):
        first, again = (samples.sample(samples.items(name)[0]) for _ in range(2))
        assert (first is again) is is_kept
        assert (first["features"] == again["features"]).all()


def test_limited_samples_are_the_first_ones(tmp_path):
    samples = Samples(DataSpec(path=str(write_npz(tmp_path / "d.npz"))), VECTOR, 0)
    first = [sample["features"].tolist() for sample in samples.samples("calibration", 4)]
    assert first == [sample["features"].tolist() for sample in samples.samples("calibration")][:4]


def test_parts_in_one_file_are_sources_of_their_own(tmp_path):
    more = {"x_calib": np.zeros((7, 2), np.float32), "x_holdout": np.zeros((5, 2), np.float32), "y_holdout": np.arange(5)}
    samples = Samples(DataSpec(path=str(write_npz(tmp_path / "d.npz", **more))), VECTOR, 0)
    assert [len(samples.items(name)) for name in ("calibration", "validation", "holdout")] == [7, 30, 5]
    assert samples.labels("calibration") is None
    assert samples.labels("holdout") == indices(samples.items("holdout"))


def test_one_source_for_two_parts_is_refused(tmp_path):
    path = str(write_npz(tmp_path / "d.npz"))
    with pytest.raises(DataError, match="serves main and holdout: the same items would be used for both"):
        Samples(DataSpec(path=path, holdout=Source(path=path)), VECTOR, 0)


def test_undivided_samples_are_all_for_validation(tmp_path):
    samples = Samples(DataSpec(path=str(write_npz(tmp_path / "d.npz"))), VECTOR, 0, is_divided=False)
    assert sorted(indices(samples.items("validation"))) == list(range(30))
    assert samples.items("calibration") == samples.items("holdout") == ()


def test_undivided_samples_are_limited_by_max_items(tmp_path):
    samples = Samples(DataSpec(path=str(write_npz(tmp_path / "d.npz")), max_items=9), VECTOR, 0, is_divided=False)
    assert len(samples.items("validation")) == 9


def test_items_are_named_as_the_user_knows_them(tmp_path):
    samples = Samples(DataSpec(path=str(write_npz(tmp_path / "d.npz"))), VECTOR, 0)
    assert samples.name_of(("main", 3)) == f"{tmp_path / 'd.npz'}[3]"


@pytest.mark.parametrize(("sides", "shapes"), [((3,), {"features": (1, 3)}), ((3, 4), None)])
def test_shapes_are_told_where_all_items_have_the_same(tmp_path, sides, shapes):
    (tmp_path / "d.py").write_text(
        "import numpy as np\n"
        f"def f():\n    sides = {sides!r}\n"
        "    return [np.ones((1, sides[index % len(sides)]), np.float32) for index in range(30)]\n"
    )
    inputs = (InputInfo(name="features", shape=(None, None), dtype=np.dtype("float32")),)
    samples = Samples(DataSpec(path=f"{tmp_path / 'd.py'}:f"), inputs, 0)
    assert samples.shapes("validation") == shapes


# Fingerprints


def test_fingerprint_changes_with_content_and_only_with_it(tmp_path):
    data = DataSpec(path=str(write_npz(tmp_path / "d.npz")))
    before = fingerprint(data)
    assert fingerprint(data) == before
    write_npz(tmp_path / "d.npz", n_items=31)
    assert fingerprint(data) != before


@pytest.mark.parametrize("change", ["content", "name", "class", "one more"])
def test_fingerprint_of_a_folder_changes_with_names_and_contents(tmp_path, change):
    file = tmp_path / "cat" / "a.png"
    file.parent.mkdir()
    file.write_bytes(b"pixels")
    before = fingerprint(DataSpec(path=str(tmp_path)))
    if change == "content":
        file.write_bytes(b"pixelz")
    elif change == "name":
        file.rename(file.with_name("b.png"))
    elif change == "class":
        file.parent.rename(tmp_path / "dog")
    else:
        (file.parent / "b.png").write_bytes(b"")
    assert fingerprint(DataSpec(path=str(tmp_path))) != before


def test_fingerprint_of_a_folder_does_not_depend_on_where_it_is(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"pixels")
    assert fingerprint(DataSpec(path=str(tmp_path / "one"))) == fingerprint(DataSpec(path=str(tmp_path / "two")))


def test_fingerprint_tells_names_from_contents(tmp_path):
    for folder, name, content in (("one", "a.png", b".pngx"), ("two", "a.png.png", b"x")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(content)
    assert fingerprint(DataSpec(path=str(tmp_path / "one"))) != fingerprint(DataSpec(path=str(tmp_path / "two")))


def test_fingerprint_of_a_python_entry_changes_with_its_file(tmp_path):
    (tmp_path / "entry.py").write_text("def f(): return [1]")
    data = DataSpec(path=f"{tmp_path / 'entry.py'}:f")
    before = fingerprint(data)
    (tmp_path / "entry.py").write_text("def f(): return [2]")
    assert fingerprint(data) != before


def test_fingerprint_covers_every_source(tmp_path):
    paths = {name: str(write_npz(tmp_path / f"{name}.npz", n_items=10 + i)) for i, name in enumerate("mch")}
    data = DataSpec(path=paths["m"], calibration=Source(path=paths["c"]), holdout=Source(path=paths["h"]))
    found = fingerprint(data)
    assert set(found) == {"main", "calibration", "holdout"}
    assert len(set(found.values())) == 3
