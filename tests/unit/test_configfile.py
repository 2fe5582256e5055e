from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from pydantic import Field, ValidationError, model_validator

from ovquant.configfile import FileModel, load, read_yaml, validate
from ovquant.errors import ConfigError


class Part(FileModel):
    size: Annotated[int, Field(ge=1)] = 1
    colour: Literal["red", "green"] = "red"


class Whole(FileModel):
    name: str
    part: Part = Part()
    parts: tuple[Part, ...] = ()
    named: dict[str, Part] = Field(default_factory=dict)
    properties: dict[str, str | int | float | bool] = Field(default_factory=dict)
    optional: Part | None = None


class Pair(FileModel):
    low: int
    high: int

    @model_validator(mode="after")
    def _check_order(self) -> Pair:
        if self.low > self.high:
            raise ValueError("low: must not exceed high")
        return self


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "file.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def fault(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(Whole, path, "test")
    return str(caught.value)


def faults_in(text: str) -> list[str]:
    """The lines that a content gives, without the place they are put down to."""
    with pytest.raises(ConfigError) as caught:
        validate(Whole, yaml.safe_load(text), "here")
    lines = str(caught.value).splitlines()
    assert all(line.startswith("here: ") for line in lines)
    return [line.removeprefix("here: ") for line in lines]


def test_a_file_becomes_a_frozen_model(tmp_path: Path) -> None:
    whole = load(Whole, write(tmp_path, "name: a\npart: {size: 3}\nparts: [{colour: green}]\n"), "test")
    assert whole == Whole(name="a", part=Part(size=3), parts=(Part(colour="green"),))
    with pytest.raises(ValidationError, match="frozen"):
        whole.name = "b"


def test_a_missing_file_is_named_with_its_kind(tmp_path: Path) -> None:
    assert fault(tmp_path / "none.yaml") == f"{tmp_path / 'none.yaml'}: no such test file"


def test_a_directory_is_not_a_file(tmp_path: Path) -> None:
    assert fault(tmp_path) == f"{tmp_path}: is a directory, expected a test file (YAML)"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("name: a\npart: {size: 3\n", "3:1"),
        ("name: a\nb: c: d\n", "2:5"),
        ("name: a\n\tpart: 1\n", "2:1"),
        ("name: 'a\n", "2:1"),
        ("name: a\nb: *none\n", "2:4"),
    ],
)
def test_broken_yaml_is_put_down_to_line_and_column(tmp_path: Path, text: str, place: str) -> None:
    path = write(tmp_path, text)
    assert fault(path).startswith(f"{path}:{place}: not valid YAML: ")


def test_python_objects_in_yaml_are_not_made(tmp_path: Path) -> None:
    path = write(tmp_path, "name: !!python/object/apply:os.getcwd []\n")
    assert fault(path).startswith(f"{path}:1:7: not valid YAML: could not determine a constructor")


def test_a_second_document_is_said_to_be_too_many(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\n---\nname: b\n")
    assert fault(path) == f"{path}:2:1: not valid YAML: expected a single document in the stream but found another document"


def test_a_control_character_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\nb: \x01\n")
    message = "unacceptable character #x0001: special characters are not allowed"
    assert re.fullmatch(rf"{re.escape(str(path))}(:2:4)?: not valid YAML: {message}", fault(path))


def test_a_control_character_is_put_down_to_its_place(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\nb: \x01\n")
    assert fault(path).startswith(f"{path}:2:4: not valid YAML: ")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("2024-02-30", "day is out of range for month"),
        ("!!int x", "invalid literal for int() with base 10: 'x'"),
        ("!!float x", "could not convert string to float: 'x'"),
        ("0b_", "invalid literal for int() with base 2: ''"),
        ("9" * 5000, "Exceeds the limit (4300 digits) for integer string conversion: value has 5000 digits"),
        ("!!bool x", ""),
        ("!!timestamp x", ""),
        ("!!map [a]", "expected a mapping node"),
        ("!!map a", "expected a mapping node"),
    ],
)
def test_a_value_that_yaml_cannot_build_is_a_fault_of_the_file(tmp_path: Path, value: str, problem: str) -> None:
    path = write(tmp_path, f"name: {value}\n")
    assert re.match(rf"{re.escape(str(path))}(:1:7)?: not valid YAML: {re.escape(problem)}", fault(path))


@pytest.mark.parametrize(
    ("text", "place", "key"),
    [
        ("name: a\nname: b\n", "2:1", "name"),
        ("name: a\npart:\n  size: 1\n  colour: red\n  size: 1\n", "5:3", "size"),
        ("name: a\nparts: [{size: 1, size: 2}]\n", "2:19", "size"),
        ("name: a\n'name': b\n", "2:1", "name"),
    ],
)
def test_a_key_that_is_there_twice_is_refused_at_the_second_place(tmp_path: Path, text: str, place: str, key: str) -> None:
    path = write(tmp_path, text)
    assert fault(path) == f"{path}:{place}: not valid YAML: the key '{key}' is there twice"


def test_the_same_key_in_two_mappings_is_no_twin(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\nparts: [{size: 1}, {size: 2}]\nnamed: {size: {size: 3}}\n")
    assert load(Whole, path, "test") == Whole(name="a", parts=(Part(size=1), Part(size=2)), named={"size": Part(size=3)})


def test_a_key_may_go_over_one_that_is_merged_in(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\nnamed:\n  first: &first {size: 2, colour: green}\n  second: {<<: *first, size: 3}\n")
    assert load(Whole, path, "test").named == {"first": Part(size=2, colour="green"), "second": Part(size=3, colour="green")}


def test_a_mapping_with_a_merge_may_be_merged_in_turn(tmp_path: Path) -> None:
    text = "name: a\npart: &one {size: 2, colour: green}\nparts: [&two {<<: *one, size: 3}]\noptional: {<<: *two}\n"
    assert load(Whole, write(tmp_path, text), "test").optional == Part(size=3, colour="green")


def test_a_number_and_its_text_are_two_keys(tmp_path: Path) -> None:
    assert read_yaml(write(tmp_path, "a: {1: x, '1': y}\n"), "test") == {"a": {1: "x", "1": "y"}}


@pytest.mark.parametrize("text", ["{[a]: 1}\n", "name: a\n? [b]\n: c\n", "name: a\n? {b: c}\n: d\n"])
def test_a_key_that_is_no_scalar_is_a_fault_of_the_file(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    assert "not valid YAML: while constructing a mapping found unhashable key" in fault(path)


@pytest.mark.parametrize(("text", "found"), [("", "nothing"), ("# only\n", "nothing"), ("- a\n", "list"), ("5\n", "int")])
def test_what_is_no_mapping_is_refused_with_what_it_is(tmp_path: Path, text: str, found: str) -> None:
    path = write(tmp_path, text)
    assert fault(path) == f"{path}: a test file is a mapping of keys to values, found {found}"


def test_a_file_that_is_too_large_is_not_parsed(tmp_path: Path) -> None:
    path = write(tmp_path, "name: {[" + "a" * 1_000_000)
    assert fault(path) == f"{path}: larger than 1000000 bytes; this is no test file"


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, b"PK\x03\x04\xff\xfe\xfa")
    assert fault(path).startswith(f"{path}: cannot be read as a test file: ")


def test_a_file_nested_without_end_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "[" * 1500)
    assert fault(path) == f"{path}: nested too deeply to be a test file"


def test_read_yaml_keeps_the_values_of_the_file(tmp_path: Path) -> None:
    content = read_yaml(write(tmp_path, "a: 1\nb: [1.5, x, null, true]\nc: {d: é}\n"), "test")
    assert content == {"a": 1, "b": [1.5, "x", None, True], "c": {"d": "é"}}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "name: a\nprat: {}",
            "prat: unknown key (did you mean 'part'?); accepted: name, named, optional, part, parts, properties",
        ),
        ("name: a\nxyz: {}", "xyz: unknown key; accepted: name, named, optional, part, parts, properties"),
        ("name: a\npart: {sise: 1}", "part.sise: unknown key (did you mean 'size'?); accepted: colour, size"),
        ("name: a\nparts: [{}, {color: red}]", "parts.1.color: unknown key (did you mean 'colour'?); accepted: colour, size"),
        ("name: a\nnamed: {first: {sise: 1}}", "named.first.sise: unknown key (did you mean 'size'?); accepted: colour, size"),
        ("name: a\noptional: {sise: 1}", "optional.sise: unknown key (did you mean 'size'?); accepted: colour, size"),
    ],
)
def test_an_unknown_key_comes_with_the_nearest_and_all_accepted_ones(text: str, line: str) -> None:
    assert faults_in(text) == [line]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("part: {}", "name: required key is missing"),
        ("name: [a]", "name: expected a string, found ['a']"),
        ("name: a\npart: {size: 0}", "part.size: input should be greater than or equal to 1, found 0"),
        ("name: a\npart: {size: 1.5}", "part.size: expected an integer, found 1.5"),
        ("name: a\npart: {size: x}", "part.size: expected an integer, found 'x'"),
        ("name: a\nparts: 5", "parts: expected a list, found 5"),
        ("name: a\npart: {colour: blue}", "part.colour: input should be 'red' or 'green', found 'blue'"),
        (
            "name: a\npart: {colour: grene}",
            "part.colour: input should be 'red' or 'green', found 'grene' (did you mean 'green'?)",
        ),
    ],
)
def test_a_wrong_value_comes_with_what_is_accepted_and_what_was_found(text: str, line: str) -> None:
    assert faults_in(text) == [line]


def test_a_long_value_is_cut_short() -> None:
    (line,) = faults_in(f"name: [{'x' * 500}]")
    assert line == f"name: expected a string, found ['{'x' * 12}...{'x' * 13}']"


def test_all_faults_are_reported_at_once() -> None:
    faults = faults_in("part: {size: 0, colour: blue}\nparts: [{sise: 1}]\nmore: 1")
    assert {line.partition(":")[0] for line in faults} == {"name", "part.size", "part.colour", "parts.0.sise", "more"}


def test_a_fault_of_the_whole_file_is_told_in_its_words_without_a_made_up_key() -> None:
    with pytest.raises(ConfigError) as caught:
        validate(Pair, {"low": 2, "high": 1}, "command line")
    assert str(caught.value) == "command line: low: must not exceed high"


@pytest.mark.parametrize("key", ["none", "str", "int", "float", "bool", "layer[0]"])
def test_keys_that_look_like_types_stay_in_the_place(key: str) -> None:
    assert faults_in(f"name: a\nnamed: {{'{key}': {{size: 0}}}}") == [
        f"named.{key}.size: input should be greater than or equal to 1, found 0"
    ]


@pytest.mark.parametrize("key", ["size", "colour"])
def test_keys_that_look_like_fields_do_not_hide_what_is_accepted(key: str) -> None:
    assert faults_in(f"name: a\nnamed: {{{key}: {{sise: 1}}}}") == [
        f"named.{key}.sise: unknown key (did you mean 'size'?); accepted: colour, size"
    ]


def test_a_value_of_none_of_several_types_is_one_fault() -> None:
    assert faults_in("name: a\nproperties: {HINT: [1]}") == [
        "properties.HINT: expected a string or an integer or a number or true or false, found [1]"
    ]


@pytest.mark.parametrize(("value", "found"), [("5", "5"), ("red", "'red'"), ("null", "None"), ("[]", "[]")])
def test_what_should_be_a_mapping_is_told_without_a_python_class(value: str, found: str) -> None:
    assert faults_in(f"name: a\npart: {value}") == [f"part: expected a mapping of keys to values, found {found}"]
