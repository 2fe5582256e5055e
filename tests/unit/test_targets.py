from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from ovquant.errors import ConfigError
from ovquant.targets import (
    MAX_VALUES_PER_GENE,
    OWN_PROFILES,
    MeasurementPlan,
    Target,
    find_target,
    json_schema,
    list_targets,
    load_target,
    profiles,
    profiles_dir,
    shipped_names,
    show_target,
    to_yaml,
)

MANY_CHOICES = {f"choice {number}": {"names": [str(number)]} for number in range(MAX_VALUES_PER_GENE + 1)}
SCHEMA = json.loads(json_schema())


def write(folder: Path, **keys: Any) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "name": "mine", "device": "CPU", **keys}))
    return path


def faults_of(folder: Path, **keys: Any) -> list[str]:
    """The lines that a profile gives, without the file's name."""
    path = write(folder, **keys)
    with pytest.raises(ConfigError) as caught:
        load_target(str(path))
    return [line.removeprefix(f"{path}: ") for line in str(caught.value).splitlines()]


def is_valid_by_schema(content: dict[str, Any]) -> bool:
    return jsonschema.Draft202012Validator(SCHEMA).is_valid({"version": 1, "name": "mine", "device": "CPU", **content})


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_profiles_load_under_their_file_name(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert target.description
    assert target.genes.ignored_scope is not None
    assert target.genes.ignored_scope["none"].is_empty


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_profiles_are_valid_by_the_schema(name: str) -> None:
    schema = json.loads((profiles_dir() / "target.schema.json").read_text())
    jsonschema.validate(yaml.safe_load((profiles_dir() / f"{name}.yaml").read_text()), schema)
    jsonschema.validate(yaml.safe_load(to_yaml(load_target(name))), schema)


@pytest.mark.parametrize("name", shipped_names())
def test_a_profile_survives_its_file(name: str, tmp_path: Path) -> None:
    target = load_target(name)
    path = tmp_path / "copy.yaml"
    path.write_text(to_yaml(target))
    assert load_target(str(path)) == target


def test_the_kinds_of_device_are_shipped() -> None:
    assert set(shipped_names()) >= {"cpu", "cpu-amx", "cpu-avx2", "cpu-bf16", "igpu", "npu"}


def test_the_schema_file_is_what_the_models_say() -> None:
    assert (profiles_dir() / "target.schema.json").read_text() == json_schema()


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"genes": {"preset": "mixed"}},
        {"genes": {"preset": [None, "mixed"], "subset_size": 30, "fast_bias_correction": [True, False]}},
        {"genes": {"smooth_quant_alphas": {"matmul": 0.5, "convolution": [-1, 1]}}},
        {"genes": {"ignored_scope": {"none": {}, "some": {"types": ["Add"], "patterns": ["a.*"], "roles": ["depthwise"]}}}},
        {"compile_properties": {"NUM_STREAMS": 1, "ENABLE_CPU_PINNING": True, "PERFORMANCE_HINT": "LATENCY"}},
        {"extends": "cpu", "genes": {"ignored_scope": {"ends": None}, "inference_precision": None}},
    ],
)
def test_what_the_reader_accepts_the_schema_accepts(tmp_path: Path, content: dict[str, Any]) -> None:
    load_target(str(write(tmp_path, **content)))
    assert is_valid_by_schema(content)


@pytest.mark.parametrize(
    "content",
    [
        {"genes": {"presets": ["mixed"]}},
        {"genes": {"preset": ["fast"]}},
        {"genes": {"subset_size": [0]}},
        {"genes": {"smooth_quant_alphas": {"matmul": [2]}}},
        {"genes": {"ignored_scope": {"a": {"roles": ["middle"]}}}},
        {"name": "two words"},
        {"version": 2},
        {"device": ""},
        {"measurement": {"ranking": {"visits": 5}}},
        {"measurement": {"verdict": {"spread": -1}}},
        {"measurement": {"ranking": {"tolerance": 0}}},
        {"compile_properties": {"HINT": [1]}},
        {"genes": {"preset": []}},
        {"genes": {"subset_size": list(range(1, MAX_VALUES_PER_GENE + 2))}},
        {"genes": {"smooth_quant_alphas": {"matmul": []}}},
        {"genes": {"ignored_scope": {}}},
        {"genes": {"ignored_scope": MANY_CHOICES}},
    ],
)
def test_what_the_reader_refuses_the_schema_refuses(tmp_path: Path, content: dict[str, Any]) -> None:
    assert faults_of(tmp_path, **content)
    assert not is_valid_by_schema(content)


@pytest.mark.parametrize(("name", "hint"), [("cpux", "cpu"), ("cpu-avx", "cpu-avx2"), ("igp", "igpu"), ("CPU-AMX2", None)])
def test_an_unknown_target_is_refused_with_the_nearest_and_all_shipped_ones(name: str, hint: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        load_target(name)
    near = "" if hint is None else f" (did you mean '{hint}'?)"
    start = f"target '{name}': no such profile{near}; known: cpu, "
    assert str(caught.value).startswith(start)
    assert "path of a YAML file" in str(caught.value)


def test_a_missing_profile_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nope\.yaml: no such target file"):
        load_target("nope.yaml")


def test_a_file_of_any_name_is_a_profile(tmp_path: Path) -> None:
    path = write(tmp_path).rename(tmp_path / "profile.txt")
    assert load_target(str(path)).name == "mine"


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (
            {"genes": {"presets": "mixed"}},
            "genes.presets: unknown key (did you mean 'preset'?); accepted: activations_per_channel, activations_range",
        ),
        ({"devise": "CPU"}, "devise: unknown key (did you mean 'device'?); accepted: compile_properties, description, device"),
        ({"genes": {"preset": ["performence"]}}, "genes.preset.0: input should be 'performance' or 'mixed', found 'performence'"),
        ({"genes": {"preset": "performence"}}, "genes.preset.0: input should be 'performance' or 'mixed', found 'performence'"),
        (
            {"genes": {"activations_range_estimator": ["MINMAXX"]}},
            "genes.activations_range_estimator.0: input should be 'MINMAX', ",
        ),
        (
            {"genes": {"inference_precision": ["f32", None]}},
            "genes.inference_precision.1: input should be 'f32', 'bf16' or 'f16'",
        ),
        (
            {"genes": {"smooth_quant_alphas": {"matmul": [2]}}},
            "genes.smooth_quant_alphas.matmul.0: input should be less than or equal",
        ),
        ({"genes": {"subset_size": []}}, "genes.subset_size: takes at least 1, found 0"),
        ({"genes": {"subset_size": list(range(1, 38))}}, "genes.subset_size: takes at most 36, found 37"),
        ({"genes": {"ignored_scope": {}}}, "genes.ignored_scope: takes at least 1, found 0"),
        pytest.param(
            {"genes": {"ignored_scope": MANY_CHOICES}},
            "genes.ignored_scope: takes at most 36, found 37",
        ),
        ({"genes": {"subset_size": [1.5]}}, "genes.subset_size.0: expected an integer, found 1.5"),
        ({"genes": {"ignored_scope": ["a"]}}, "genes.ignored_scope: expected a mapping of keys to values, found ['a']"),
        ({"genes": {"ignored_scope": {"a": {"tipes": []}}}}, "genes.ignored_scope.a.tipes: unknown key (did you mean 'types'?)"),
        (
            {"genes": {"ignored_scope": {"a": {"roles": ["middle"]}}}},
            "genes.ignored_scope.a.roles.0: input should be 'first_convolution'",
        ),
        (
            {"measurement": {"ranking": {"burst": 5, "discard": 5}}},
            "measurement.ranking: discard (5) must be less than burst (5)",
        ),
        (
            {"measurement": {"verdict": {"visits": 11, "spread": 60}}},
            "measurement.verdict: a spread needs at least 12 visits, found 11",
        ),
        ({"name": "a b"}, "name: string should match pattern"),
        (
            {"nncf_target_device": "TPU"},
            "nncf_target_device: input should be 'ANY', 'CPU', 'GPU', 'NPU' or 'CPU_SPR', found 'TPU'",
        ),
    ],
)
def test_a_fault_is_told_where_it_is(tmp_path: Path, keys: dict[str, Any], line: str) -> None:
    (found,) = faults_of(tmp_path, **keys)
    assert found.startswith(line)


def test_an_inference_precision_that_openvino_lacks_is_refused(tmp_path: Path) -> None:
    (found,) = faults_of(tmp_path, compile_properties={"INFERENCE_PRECISION_HINT": "f64"})
    assert "compile_properties.INFERENCE_PRECISION_HINT: f32, bf16 or f16, found 'f64'" in found


def test_several_faults_are_reported_at_once(tmp_path: Path) -> None:
    faults = faults_of(tmp_path, genes={"preset": ["fast"], "subset_size": [0, "x"], "scope": 1}, device="", version=3)
    places = {line.partition(":")[0] for line in faults}
    assert places == {"genes.preset.0", "genes.subset_size.0", "genes.subset_size.1", "genes.scope", "device", "version"}


@pytest.mark.parametrize(
    ("gene", "values", "twin"),
    [
        ("preset", ["mixed", "performance", "mixed"], "'mixed'"),
        ("model_type", [None, None], "None"),
        ("subset_size", [30, 30], "30"),
        ("fast_bias_correction", [True, True], "True"),
        ("inference_precision", ["f32", "f32"], "'f32'"),
    ],
)
def test_a_value_that_a_gene_lists_twice_is_refused(tmp_path: Path, gene: str, values: list[Any], twin: str) -> None:
    assert faults_of(tmp_path, genes={gene: values}) == [f"genes.{gene}: {twin} is listed twice"]


def test_an_alpha_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    assert faults_of(tmp_path, genes={"smooth_quant_alphas": {"matmul": [0.5, 0.5]}}) == [
        "genes.smooth_quant_alphas.matmul: 0.5 is listed twice"
    ]


def test_twins_in_two_genes_are_two_faults(tmp_path: Path) -> None:
    assert faults_of(tmp_path, genes={"preset": ["mixed", "mixed"], "subset_size": [3, 3]}) == [
        "genes.preset: 'mixed' is listed twice",
        "genes.subset_size: 3 is listed twice",
    ]


def test_a_pattern_that_is_no_regular_expression_is_refused(tmp_path: Path) -> None:
    assert faults_of(tmp_path, genes={"ignored_scope": {"a": {"patterns": ["ok.*", "conv("]}}}) == [
        "genes.ignored_scope.a.patterns: 'conv(' is no regular expression: missing ), unterminated subpattern at position 4"
    ]


def test_each_pattern_that_is_no_regular_expression_is_a_fault(tmp_path: Path) -> None:
    assert len(faults_of(tmp_path, genes={"ignored_scope": {"a": {"patterns": ["conv(", "*"]}}})) == 2


def test_one_value_is_a_list_of_one() -> None:
    genes = {"preset": "mixed", "model_type": [None], "subset_size": 30, "smooth_quant_alphas": {"matmul": 0.5}}
    found = Target.model_validate({"version": 1, "name": "a", "device": "CPU", "genes": genes}).genes
    assert (found.preset, found.model_type, found.subset_size) == (("mixed",), (None,), (30,))
    assert found.smooth_quant_alphas is not None
    assert found.smooth_quant_alphas.matmul == (0.5,)


def test_absent_genes_are_none() -> None:
    genes = Target.model_validate({"version": 1, "name": "a", "device": "CPU"}).genes
    assert {name for name in type(genes).model_fields if getattr(genes, name) is not None} == set()


def test_the_final_table_is_measured_longer_than_the_ranking_and_spread_over_time() -> None:
    plans = Target.model_validate({"version": 1, "name": "a", "device": "CPU"}).measurement
    assert plans.ranking == MeasurementPlan()
    assert plans.verdict.visits > plans.ranking.visits
    assert plans.verdict.seconds > plans.ranking.seconds
    assert (plans.ranking.spread, plans.verdict.spread) == (0, 120)


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_profiles_measure_a_second_to_rank_and_two_minutes_for_the_verdict(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(OWN_PROFILES)
    plans = load_target(name).measurement
    assert (plans.ranking.spread, plans.verdict.spread) == (0, 120)
    assert plans.ranking.seconds <= 1
    assert plans.verdict.visits >= 12
    assert 9 * plans.verdict.seconds <= plans.verdict.spread  # six finalists, reference, baseline and NNCF's default


def test_a_profile_may_do_without_the_spread(tmp_path: Path) -> None:
    short = {"visits": 6, "burst": 4, "discard": 1, "seconds": 0.1}
    plans = load_target(str(write(tmp_path, measurement={"verdict": short}))).measurement
    assert plans.verdict == MeasurementPlan(**short)


def test_the_list_of_targets_has_a_line_for_each() -> None:
    lines: list[str] = []
    content = list_targets(lines.append)
    assert [entry["name"] for entry in content["targets"]] == shipped_names()
    assert [line.split()[0] for line in lines] == shipped_names()


def test_a_target_is_shown_as_its_file() -> None:
    lines: list[str] = []
    content = show_target("igpu", lines.append)
    assert yaml.safe_load("\n".join(lines))["genes"]["subset_size"] == [30, 100, 300]
    assert Target.model_validate(content) == load_target("igpu")


@pytest.mark.parametrize("name", shipped_names())
def test_a_resolved_profile_needs_no_other_file(name: str, tmp_path: Path) -> None:
    lines: list[str] = []
    path = str(profiles_dir() / f"{name}.yaml")
    show_target(path, lines.append, is_resolved=True)
    (tmp_path / "copy.yaml").write_text("\n".join(lines))
    assert "extends" not in yaml.safe_load("\n".join(lines))
    assert load_target(str(tmp_path / "copy.yaml")) == load_target(path)


def test_profiles_of_ones_own_go_by_their_names_and_before_shipped_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text("version: 1\nname: mine\ndevice: CPU\n")
    (tmp_path / "cpu.yaml").write_text("version: 1\nname: cpu\ndescription: my own\ndevice: CPU\n")
    monkeypatch.setenv(OWN_PROFILES, str(tmp_path))
    assert load_target("mine").name == "mine"
    assert load_target("cpu").description == "my own"
    assert profiles() == [*shipped_names(), "mine"]


def test_without_ones_own_directory_the_shipped_profiles_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OWN_PROFILES)
    for name in shipped_names():
        assert find_target(name).parent == profiles_dir()
