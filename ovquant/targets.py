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

from ovquant import extensions
from ovquant.configfile import FILE_VERSION, FileModel, validate
from ovquant.errors import ConfigError, did_you_mean
from ovquant.inheritance import EXTENDS, read_extended
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
from ovquant.turns import LEAST_SPREAD_VISITS, LEAST_VISITS

ValueT = TypeVar("ValueT")
MAX_VALUES_PER_GENE = 36
OWN_PROFILES = "OVQUANT_TARGETS"


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
    verdict: MeasurementPlan = MeasurementPlan(visits=96, burst=50, discard=5, seconds=13.0, spread=120.0, tolerance=0.1)


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

    read_before = (EXTENDS,)
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


def profiles() -> list[str]:
    """Return all names that profiles go by: shipped ones, those in the user's directory, those of installed packages.

    The user's directory is named by the environment variable ``OVQUANT_TARGETS``.
    """
    return list(dict.fromkeys([*shipped_names(), *_own_profiles(), *extensions.names(extensions.TARGETS)]))


def _own_profiles() -> dict[str, Path]:
    own = os.environ.get(OWN_PROFILES)
    return {path.stem: path for path in sorted(Path(own).glob("*.yaml"))} if own else {}


def find_target(name_or_path: str, of: Path | None = None) -> Path:
    """Return the file of a profile's name, or the user's own file.

    The user's directory goes before the shipped profiles, and these before those of installed packages.

    Args:
        name_or_path: name or path.
        of: file that extends it: a path is relative to its folder, and a name does not mean this file itself, so that a
            profile of one's own may extend the shipped one of the same name.

    Raises:
        ConfigError: neither a known name nor a file.
    """
    shipped = {name: profiles_dir() / f"{name}.yaml" for name in shipped_names()}
    for known in (_own_profiles(), shipped):
        found = known.get(name_or_path)
        if found is not None and (of is None or found.resolve() != of.resolve()):
            return found
    if name_or_path in extensions.names(extensions.TARGETS):
        return extensions.profile_path(name_or_path)
    path = Path(name_or_path) if of is None else of.parent / name_or_path
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        return path
    raise ConfigError(
        f"target {name_or_path!r}: no such profile{did_you_mean(name_or_path, profiles())}; "
        f"known: {', '.join(profiles())}, or give the path of a YAML file"
    )


def load_target(name_or_path: str) -> Target:
    """Return the profile of that name or file, with all that it extends.

    Raises:
        ConfigError: no such profile, or faults in it or in what it extends.
    """
    content, files = read_extended(find_target(name_or_path), find_target)
    where = str(files[0]) + (f" (extends {', '.join(map(str, files[1:]))})" if files[1:] else "")
    return validate(Target, content, where)


def json_schema() -> str:
    """Return the JSON Schema of profiles, for editors."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Target.model_json_schema(mode="validation")}
    _allow_scalars(schema)
    _allow_extends(schema)
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


def _allow_extends(schema: Any) -> None:
    """Let a file inherit from another one: then it need not name its device, and null takes inherited entries out."""
    told = "profile that this one inherits from: its name, or its path relative to this file"
    schema["properties"][EXTENDS] = {"type": "string", "minLength": 1, "description": told}
    schema["required"].remove("device")
    schema["anyOf"] = [{"required": ["device"]}, {"required": [EXTENDS]}]
    scopes = schema["$defs"]["Genes"]["properties"]["ignored_scope"]["anyOf"][0]
    for entries in (scopes, schema["properties"]["compile_properties"]):
        entries["additionalProperties"] = {"anyOf": [entries["additionalProperties"], {"type": "null"}]}


def to_yaml(model: FileModel) -> str:
    """Return a file model as YAML, without keys that are at their default."""
    return _dumped(model.model_dump(exclude_defaults=True))


def _dumped(content: Any) -> str:
    return yaml.safe_dump(content, sort_keys=False, width=110, default_flow_style=None)


def list_targets(write: Callable[[str], None]) -> dict[str, Any]:
    """Write a line per profile that goes by a name and return the same as JSON values; one with faults does not hide others."""
    listed = []
    for name in profiles():
        try:
            target = load_target(name)
        except ConfigError as error:
            write(f"{name:10s} -     cannot be used: {str(error).splitlines()[0]}")
            listed.append({"name": name, "error": str(error)})
        else:
            write(f"{name:10s} {target.device:5s} {target.description}")
            listed.append({"name": name, "device": target.device, "description": target.description})
    return {"targets": listed}


def show_target(name: str, write: Callable[[str], None], *, is_resolved: bool = False) -> dict[str, Any]:
    """Write a profile's file, or the profile with all that it extends, and return its content as JSON values.

    Raises:
        ConfigError: no such profile, or faults in it.
    """
    target = load_target(name)
    # Whole, so that what extends it in turn does not fall back to defaults.
    resolved = _dumped(target.model_dump(mode="json", exclude_none=True))
    write((resolved if is_resolved else find_target(name).read_text(encoding="utf-8")).rstrip())
    return target.model_dump(mode="json")
