"""Target profiles: what a device is, how it is measured, and which genes may be searched for it."""

from __future__ import annotations

import importlib.resources
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from ovquant.configfile import FILE_VERSION, FileModel, load
from ovquant.errors import ConfigError, did_you_mean
from ovquant.selectors import ScopeSelector
from ovquant.strategy import (
    InferencePrecision,
    ModelType,
    NncfTargetDevice,
    OverflowFix,
    Preset,
    PropagationRule,
    RangeEstimator,
    WeightsRangeEstimator,
)

ValueT = TypeVar("ValueT")
MAX_VALUES_PER_GENE = 36
OWN_PROFILES = "OVQUANT_TARGETS"
LEAST_VISITS = 6  # with fewer, no interval of order statistics reaches 95 %
LEAST_SPREAD_VISITS = 12  # three stretches of four, see `ovquant.latency.long_run_interval`


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


def _no_twins(values: tuple[Any, ...]) -> tuple[Any, ...]:
    for index, value in enumerate(values):
        if any(value == other and type(value) is type(other) for other in values[:index]):
            raise ValueError(f"{value!r} is listed twice")
    return values


Allowed = Annotated[
    tuple[ValueT, ...],
    Field(min_length=1, max_length=MAX_VALUES_PER_GENE),
    AfterValidator(_no_twins),
    BeforeValidator(_as_list),
]
Choices = Annotated[dict[str, ScopeSelector], Field(min_length=1, max_length=MAX_VALUES_PER_GENE)]
Alpha = Annotated[float, Field(ge=-1, le=1)]
PositiveInt = Annotated[int, Field(ge=1, strict=True)]


class SmoothQuantGenes(FileModel):
    """Allowed SmoothQuant alphas; NNCF applies them to transformers only, a negative value switches off."""

    matmul: Allowed[Alpha] | None = None
    convolution: Allowed[Alpha] | None = None


class LayerGenes(FileModel):
    """Single layers that may stay in float, found by `ovquant.sensitivity`."""

    top: Annotated[int, Field(ge=1, le=64, strict=True)]


class Genes(FileModel):
    """Allowed values of each gene, under NNCF's own names. An absent gene stays at NNCF's default, one value pins it."""

    preset: Allowed[Preset | None] | None = Field(None, description="quantization preset; null is NNCF's default")
    model_type: Allowed[ModelType | None] | None = Field(None, description="null or transformer")
    subset_size: Allowed[PositiveInt] | None = Field(None, description="number of calibration samples")
    fast_bias_correction: Allowed[bool] | None = Field(None, description="false is the accurate, slow algorithm")
    disable_bias_correction: Allowed[bool] | None = None
    ignored_scope: Choices | None = Field(
        None, description="named choices of operations that stay in float; an empty mapping {} ignores nothing"
    )
    layers: LayerGenes | None = Field(
        None, description="a gene for each of the layers that cost the most divergence or time: quantized, or in float"
    )
    overflow_fix: Allowed[OverflowFix | None] | None = Field(None, description="matters on CPUs without VNNI only")
    activations_range_estimator: Allowed[RangeEstimator | None] | None = Field(
        None, description="a name from NNCF's RangeEstimatorParametersSet; null is NNCF's default"
    )
    weights_range_estimator: Allowed[WeightsRangeEstimator | None] | None = Field(None, description="likewise, for weights")
    activations_per_channel: Allowed[Literal[False] | None] | None = Field(
        None, description="null: inputs of depthwise convolutions per channel, as NNCF does; false: all activations per tensor"
    )
    disable_channel_alignment: Allowed[bool] | None = Field(
        None, description="false balances the channels of convolutions that follow each other"
    )
    quantizer_propagation_rule: Allowed[PropagationRule | None] | None = Field(
        None, description="how quantizers of branches are merged; null is NNCF's default, MERGE_ALL_IN_ONE"
    )
    target_device: Allowed[NncfTargetDevice] | None = Field(
        None, description="NNCF target device, in place of nncf_target_device; CPU_SPR leaves element-wise operations in float"
    )
    smooth_quant_alphas: SmoothQuantGenes | None = None
    inference_precision: Allowed[InferencePrecision] | None = Field(
        None, description="OpenVINO's INFERENCE_PRECISION_HINT for what is left in float; wins over compile_properties"
    )


class MeasurementPlan(FileModel):
    """How one interleaved latency measurement is taken.

    Attributes:
        visits: how often each model gets a burst of inferences; the interval is taken over visits.
        burst: inferences per burst at most; slow models get shorter bursts to stay within `seconds`.
        discard: inferences at the start of each burst that are not counted (caches are cold after a switch).
        seconds: time limit per measured model, pauses not counted.
        spread: seconds from the first visit to the last, with pauses between them, for what the machine does in the long
            run; 0 lets one visit follow the other, for what it does at that time.
        tolerance: width of a speed-up's interval as a share of the speed-up: without `spread`, the measurement ends before
            all visits are made if all intervals are narrower; an interval that is wider in the end is called unstable.
    """

    visits: Annotated[int, Field(ge=LEAST_VISITS, le=10_000)] = 12
    burst: Annotated[int, Field(ge=4, le=10_000)] = 25
    discard: Annotated[int, Field(ge=0, le=1_000)] = 5
    seconds: Annotated[float, Field(gt=0, le=3_600)] = 1.0
    spread: Annotated[float, Field(ge=0, le=86_400)] = 0.0
    tolerance: Annotated[float, Field(gt=0, le=10)] = 0.05

    @model_validator(mode="after")
    def _check_plan(self) -> MeasurementPlan:
        if self.discard >= self.burst:
            raise ValueError(f"discard ({self.discard}) must be less than burst ({self.burst})")
        if self.spread and self.visits < LEAST_SPREAD_VISITS:
            raise ValueError(f"a spread needs at least {LEAST_SPREAD_VISITS} visits, found {self.visits}")
        return self


class Measurement(FileModel):
    """The plan during the search (to rank) and the plan for the final table."""

    ranking: MeasurementPlan = MeasurementPlan()
    verdict: MeasurementPlan = MeasurementPlan(visits=24, burst=100, discard=10, seconds=4.0, spread=120.0, tolerance=0.1)


class Requirements(FileModel):
    """What the device must be for measurements on it to mean anything for this target.

    Attributes:
        cpu_flags_any: at least one of these CPU flags (as in /proc/cpuinfo) must be there.
        cpu_flags_none: none of these CPU flags may be there.
        capabilities: entries of OpenVINO's OPTIMIZATION_CAPABILITIES that must be there.
    """

    cpu_flags_any: tuple[str, ...] = ()
    cpu_flags_none: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()


class Target(FileModel):
    """A target profile."""

    version: Literal[1] = Field(description="version of the profile format")
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]
    description: str = ""
    device: Annotated[str, Field(min_length=1, description="OpenVINO device, e.g. CPU, GPU, GPU.1, NPU")]
    nncf_target_device: NncfTargetDevice = "ANY"
    compile_properties: dict[str, str | int | float | bool] = Field(
        default={"PERFORMANCE_HINT": "LATENCY"},
        description="OpenVINO properties that the timed models are compiled with",
    )
    measurement: Measurement = Measurement()
    requirements: Requirements = Requirements()
    genes: Genes = Genes()

    @model_validator(mode="after")
    def _check_precision(self) -> Target:
        value = self.compile_properties.get("INFERENCE_PRECISION_HINT")
        if value is not None and value not in {"f32", "bf16", "f16"}:
            raise ValueError(f"compile_properties.INFERENCE_PRECISION_HINT: f32, bf16 or f16, found {value!r}")
        return self


assert FILE_VERSION == 1  # the Literal of `Target.version`


def profiles_dir() -> Path:
    """Return the directory of the shipped profiles: inside the package, or beside it in a checkout."""
    packaged = Path(str(importlib.resources.files("ovquant"))) / "_targets"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parent.parent / "targets"


def shipped_names() -> list[str]:
    """Return the names of the shipped profiles, sorted."""
    return sorted(path.stem for path in profiles_dir().glob("*.yaml"))


def profiles() -> dict[str, Path]:
    """Return name -> file of all profiles that go by a name: those in the user's directory, then the shipped ones.

    The user's directory is named by the environment variable ``OVQUANT_TARGETS``.
    """
    found = {name: profiles_dir() / f"{name}.yaml" for name in shipped_names()}
    own = os.environ.get(OWN_PROFILES)
    if own:
        found.update({path.stem: path for path in sorted(Path(own).glob("*.yaml"))})
    return found


def find_target(name_or_path: str) -> Path:
    """Return the file of a profile's name, or the user's own file.

    Raises:
        ConfigError: neither a known name nor a file.
    """
    known = profiles()
    if name_or_path in known:
        return known[name_or_path]
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        return path
    raise ConfigError(
        f"target {name_or_path!r}: no such profile{did_you_mean(name_or_path, known)}; "
        f"known: {', '.join(known)}, or give the path of a YAML file"
    )


def load_target(name_or_path: str) -> Target:
    """Return the profile of that name or file.

    Raises:
        ConfigError: no such profile, or faults in it.
    """
    return load(Target, find_target(name_or_path), "target")


def json_schema() -> str:
    """Return the JSON Schema of profiles, for editors."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Target.model_json_schema(mode="validation")}
    _allow_scalars(schema)
    return json.dumps(schema, indent=2) + "\n"


def _allow_scalars(node: Any) -> None:
    """Let a gene be written as one value instead of a list of one, as the reader does."""
    for gene in [
        *node["$defs"]["Genes"]["properties"].values(),
        *node["$defs"]["SmoothQuantGenes"]["properties"].values(),
    ]:
        for branch in list(gene.get("anyOf", [])):
            if branch.get("type") == "array":
                gene["anyOf"].append(branch["items"])


def to_yaml(model: FileModel) -> str:
    """Return a file model as YAML, without keys that are at their default."""
    return yaml.safe_dump(model.model_dump(exclude_defaults=True), sort_keys=False, width=110, default_flow_style=None)


def list_targets(write: Callable[[str], None]) -> dict[str, Any]:
    """Write a line per shipped profile and return the same as JSON values."""
    targets = [load_target(name) for name in profiles()]
    for target in targets:
        write(f"{target.name:10s} {target.device:5s} {target.description}")
    return {"targets": [{"name": t.name, "device": t.device, "description": t.description} for t in targets]}


def show_target(name: str, write: Callable[[str], None]) -> dict[str, Any]:
    """Write a profile's file and return its content as JSON values.

    Raises:
        ConfigError: no such profile, or faults in it.
    """
    target = load_target(name)
    write(find_target(name).read_text(encoding="utf-8").rstrip())
    return target.model_dump(mode="json")
