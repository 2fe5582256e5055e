"""Whatever measures latency, here or over ssh, gives the same answers for the same models."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from loopback import Loopback

from ovquant import runtime
from ovquant.address import parse_address
from ovquant.audit import Audit
from ovquant.errors import OvquantError
from ovquant.evaluation import Workbench
from ovquant.inference import CompiledModel
from ovquant.job import DataSpec
from ovquant.latency import summarize
from ovquant.metering import LocalMeter, Ready
from ovquant.protocols import LatencyMeter
from ovquant.remote import RemoteMeter, site_at
from ovquant.strategy import InferencePrecision, Strategy
from ovquant.targets import MeasurementPlan, Target
from ovquant.tasks import BenchSpec

PROPERTIES = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1}
PLAN = MeasurementPlan(visits=6, burst=8, discard=2, seconds=0.2, tolerance=1e-9)
SAMPLE = {"image": np.random.default_rng(0).normal(size=(1, 3, 12, 12)).astype(np.float32)}


def sample() -> dict[str, np.ndarray]:
    return SAMPLE


@pytest.fixture(scope="module")
def int8(conv_case: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return NNCF's default of the small model."""
    spec = BenchSpec(
        model=str(conv_case[0]),
        target=Target(version=1, name="t", device="CPU"),
        device="CPU",
        data=DataSpec(path=str(conv_case[1])),
        seed=0,
        metrics=(),
        output_kinds={},
        model_dir=str(tmp_path_factory.mktemp("int8")),
    )
    bench = Workbench(spec)
    path = bench.build(Strategy(subset_size=10))
    bench.close()
    return path


@pytest.fixture(scope="module", params=["local", "remote"])
def meter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LatencyMeter]:
    if request.param == "local":
        yield LocalMeter("CPU", PROPERTIES, sample)
        return
    there: Loopback = request.getfixturevalue("loopback")
    folder = tmp_path_factory.mktemp("sent")
    site = site_at(parse_address(there.url(), sys.executable), "CPU", folder, "test")
    remote = RemoteMeter(site, PROPERTIES, sample, folder)
    yield remote
    remote.close()
    assert there.left_behind() == []


def ready(meter: LatencyMeter, path: Path, precision: InferencePrecision | None = "f32") -> Ready:
    model = runtime.read_model(path)
    compiled = CompiledModel(model, "CPU", PROPERTIES, precision) if meter.is_here else None
    return Ready(path=path, model=model, precision=precision, compiled=compiled)


def structure_here(path: Path, precision: InferencePrecision | None) -> str:
    here = LocalMeter("CPU", PROPERTIES, sample)
    return here.structure(ready(here, path, precision))


def test_the_key_of_the_kernels_is_the_same_wherever_it_is_taken(
    meter: LatencyMeter, conv_case: tuple[Path, Path], int8: Path
) -> None:
    keys = [meter.structure(ready(meter, path)) for path in (conv_case[0], int8)]
    assert keys == [structure_here(path, "f32") for path in (conv_case[0], int8)]
    assert len(set(keys)) == 2


def test_a_precision_is_that_asked_for_or_the_devices_own(meter: LatencyMeter, conv_case: tuple[Path, Path]) -> None:
    assert meter.precision(ready(meter, conv_case[0], "f32")) == "f32"
    own = CompiledModel(runtime.read_model(conv_case[0]), "CPU", PROPERTIES).precision
    assert meter.precision(ready(meter, conv_case[0], None)) == own


def test_models_take_turns_by_the_plan(meter: LatencyMeter, conv_case: tuple[Path, Path], int8: Path) -> None:
    turns, n_threads = meter.turns([ready(meter, conv_case[0]), ready(meter, int8)], PLAN)
    assert (turns.plan, n_threads) == (PLAN, [1, 1])
    assert [len(turns.samples_s[name]) for name in ("0", "1")] == [6, 6]
    assert all(len(visit) == 6 and min(visit) > 0 for visits in turns.samples_s.values() for visit in visits)
    assert len(turns.visited_s) == len(turns.states) == 6
    assert list(turns.visited_s) == sorted(turns.visited_s)
    assert (turns.baseline, summarize(turns, "0", 1).ratio.value) == ("0", 1.0)


def test_the_state_of_the_machine_is_read_where_the_models_run(meter: LatencyMeter, conv_case: tuple[Path, Path]) -> None:
    turns, _ = meter.turns([ready(meter, conv_case[0])], PLAN)
    assert all(state.cpu_seconds and state.cpu_seconds > 0 for state in turns.states)
    assert all(state.others_seconds is not None for state in turns.states)


def test_a_profile_has_the_kernels_of_each_model(meter: LatencyMeter, conv_case: tuple[Path, Path], int8: Path) -> None:
    floats, quantized = meter.audits([ready(meter, conv_case[0]), ready(meter, int8)])
    assert isinstance(floats, Audit)
    assert not any(kernel.is_integer for kernel in floats.kernels)
    assert any(kernel.is_integer for kernel in quantized.kernels)
    assert all(kernel.time_us >= 0 and isinstance(kernel.origins, tuple) for kernel in quantized.kernels)


def test_a_model_that_cannot_be_run_is_a_fault_and_the_next_one_is_measured(
    meter: LatencyMeter, conv_case: tuple[Path, Path], tmp_path: Path
) -> None:
    whole = ready(meter, conv_case[0])
    if meter.is_here:
        with pytest.raises(OvquantError):
            ready(meter, conv_case[0].parent / "none.xml")
    else:
        for suffix in (".xml", ".bin"):
            (tmp_path / f"broken{suffix}").write_bytes(b"broken")
        with pytest.raises(OvquantError, match="OpenVINO cannot read this model"):
            meter.structure(dataclasses.replace(whole, path=tmp_path / "broken.xml"))
    assert meter.structure(whole) == structure_here(conv_case[0], "f32")
