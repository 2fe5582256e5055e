"""Benches on their way to other machines: what is sent, once, and where it lies there."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from ovquant import shipment
from ovquant.job import DataSpec, MetricSpec, Source
from ovquant.runtime import file_sha256
from ovquant.shipment import Depot, Shipment, pieces, shipment_of
from ovquant.targets import Target
from ovquant.tasks import BenchSpec


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    here = tmp_path / "here"
    for name in ("cat", "dog"):
        (here / "images" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4), "red" if name == "cat" else "blue").save(here / "images" / name / "0.png")
    (here / "images" / "empty").mkdir()
    (here / "metric.py").write_text("def score(outputs, labels): ...\n")
    (here / "data.py").write_text("def samples(): ...\n")
    return here


@pytest.fixture
def sent(folder: Path, conv_case: tuple[Path, Path]) -> Shipment:
    data = DataSpec(path=str(folder / "images"), holdout=Source(path=f"{folder / 'data.py'}:samples"))
    spec = BenchSpec(
        model=str(conv_case[0]),
        target=Target(version=1, name="t", device="GPU", compile_properties={"NUM_STREAMS": 2}),
        device="CPU",
        data=data,
        seed=0,
        metrics=(MetricSpec(name=f"{folder / 'metric.py'}:score"), MetricSpec(name="accuracy")),
        output_kinds={},
        model_dir=str(folder / "work"),
    )
    return shipment_of(spec, "GPU")


def given(depot: Depot, sent: Shipment) -> int:
    """Give a depot what it lacks; return how many files that were."""
    paths = {digest: Path(path) for path, digest in sent.files.items()}
    lacking = depot.lacking(paths)
    for several in pieces({digest: paths[digest] for digest in lacking}):
        depot.take(several)
    return len(lacking)


def test_files_lie_there_as_they_lie_here(sent: Shipment, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipment, "_PIECE_BYTES", 100)  # several messages for one file
    depot, root = Depot(tmp_path / "depot", "me"), tmp_path / "there"
    assert given(depot, sent) == 5
    depot.lay_out(sent, root)
    spec = sent.laid_out(root, tmp_path / "models")
    assert spec.data.path == f"{root}{folder}/images"
    assert spec.data.holdout is not None
    assert spec.data.holdout.path == f"{root}{folder}/data.py:samples"
    assert [metric.name for metric in spec.metrics] == [f"{root}{folder}/metric.py:score", "accuracy"]
    assert spec.model_dir == str(tmp_path / "models")
    assert Path(spec.model).read_bytes() == Path(sent.spec.model).read_bytes()
    assert (Path(spec.data.path) / "empty").is_dir()
    for path in sent.files:
        assert Path(f"{root}{path}").read_bytes() == Path(path).read_bytes()


def test_what_is_there_is_not_sent_again_unless_its_content_is_another_one(sent: Shipment, tmp_path: Path) -> None:
    assert given(Depot(tmp_path, "me"), sent) == 5
    assert given(Depot(tmp_path, "another"), sent) == 0
    digest = next(iter(sent.files.values()))
    (tmp_path / digest).write_bytes(b"something else")
    assert given(Depot(tmp_path, "me again"), sent) == 1
    assert file_sha256(tmp_path / digest) == digest


def test_a_file_that_changes_while_it_is_sent_is_not_taken(sent: Shipment, folder: Path, tmp_path: Path) -> None:
    (folder / "metric.py").write_text("def score(outputs, labels): return 1\n")
    with pytest.raises(ValueError, match="changed while it was sent"):
        given(Depot(tmp_path / "depot", "me"), sent)
    assert sent.files[str(folder / "metric.py")] not in {path.name for path in (tmp_path / "depot").iterdir()}


def test_models_are_validated_without_the_properties_of_a_device_that_is_not_used_there(sent: Shipment) -> None:
    assert sent.timing(sent.spec).device == "GPU"
    assert sent.timing(sent.spec).properties == {"NUM_STREAMS": 2}
    assert sent.validating(sent.spec).device == "CPU"
    assert "NUM_STREAMS" not in sent.validating(sent.spec).properties


def test_another_content_is_another_shipment(sent: Shipment, folder: Path) -> None:
    assert shipment_of(sent.spec, "GPU").digest == sent.digest
    (folder / "metric.py").write_text("def score(outputs, labels): return 1\n")
    assert shipment_of(sent.spec, "GPU").digest != sent.digest
