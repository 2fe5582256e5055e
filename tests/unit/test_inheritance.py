"""Profiles that extend others: what wins, what is taken out, and chains that cannot be followed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ovquant.errors import ConfigError
from ovquant.inheritance import MAX_DEPTH, merge
from ovquant.targets import OWN_PROFILES, find_target, load_target, profiles_dir


def write(path: Path, **keys: Any) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump({"version": 1, "name": path.stem, **keys}))
    return str(path)


def test_mappings_merge_lists_replace_and_null_takes_out(tmp_path: Path) -> None:
    genes = {
        "subset_size": [10],
        "inference_precision": None,
        "smooth_quant_alphas": {"convolution": [0.5]},
        "ignored_scope": {"ends": None, "sums": {"types": ["Add"]}},
    }
    mine = load_target(write(tmp_path / "mine.yaml", extends="cpu", compile_properties={"NUM_STREAMS": 1}, genes=genes))
    cpu = load_target("cpu")
    assert (mine.name, mine.description, mine.device) == ("mine", "", "CPU")
    assert mine.compile_properties == {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    assert (mine.genes.subset_size, mine.genes.inference_precision) == ((10,), None)
    assert mine.genes.preset == cpu.genes.preset
    assert mine.genes.smooth_quant_alphas is not None
    assert cpu.genes.smooth_quant_alphas is not None
    assert mine.genes.smooth_quant_alphas.matmul == cpu.genes.smooth_quant_alphas.matmul
    assert mine.genes.smooth_quant_alphas.convolution == (0.5,)
    assert set(mine.genes.ignored_scope or {}) == {*(cpu.genes.ignored_scope or {}), "sums"} - {"ends"}
    assert mine.measurement == cpu.measurement


def test_merging_changes_neither_side() -> None:
    inherited, own = {"a": {"b": 1, "c": [1]}}, {"a": {"b": None, "c": [2], "d": {}}}
    assert merge(inherited, own) == {"a": {"c": [2], "d": {}}}
    assert inherited == {"a": {"b": 1, "c": [1]}}
    assert own == {"a": {"b": None, "c": [2], "d": {}}}


def test_paths_are_relative_to_the_file_that_extends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "base" / "root.yaml", device="NPU")
    write(tmp_path / "base" / "middle.yaml", extends="root.yaml", nncf_target_device="NPU")
    path = write(tmp_path / "top" / "mine.yaml", extends="../base/middle.yaml")
    monkeypatch.chdir(tmp_path / "base")
    mine = load_target(path)
    assert (mine.device, mine.nncf_target_device) == ("NPU", "NPU")


def test_a_profile_of_ones_own_may_extend_the_shipped_one_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "cpu.yaml", extends="cpu", genes={"subset_size": 7})
    monkeypatch.setenv(OWN_PROFILES, str(tmp_path))
    assert find_target("cpu").parent == tmp_path
    assert find_target("cpu", tmp_path / "cpu.yaml").parent == profiles_dir()
    assert load_target("cpu").genes.subset_size == (7,)
    assert load_target("cpu-amx").genes.subset_size == (7,)  # what extends a name follows one's own of that name


@pytest.mark.parametrize(
    ("extends", "told"),
    [
        ("cpux", r"mine.yaml: extends: target 'cpux': no such profile \(did you mean 'cpu'\?\)"),
        ("none.yaml", r"mine.yaml: extends: .*none.yaml: no such file \(paths are relative to the file that extends\)"),
        ("mine.yaml", r"mine.yaml: extends: profiles extend each other in a circle: .*mine.yaml -> .*mine.yaml"),
        ("other.yaml", r"mine.yaml: extends: profiles extend each other in a circle: .*mine.yaml -> .*other.yaml -> .*mine.yaml"),
        ("text.yaml", "text.yaml: a target file is a mapping"),
        (["cpu"], r"extends: expected the name of a profile or the path of one, found \['cpu'\]"),
        ("", "extends: expected the name"),
    ],
)
def test_what_cannot_be_extended_is_an_error(tmp_path: Path, extends: Any, told: str) -> None:
    write(tmp_path / "other.yaml", extends="mine.yaml")
    (tmp_path / "text.yaml").write_text("words\n")
    with pytest.raises(ConfigError, match=told):
        load_target(write(tmp_path / "mine.yaml", extends=extends))


def test_chains_may_be_long_but_not_without_end(tmp_path: Path) -> None:
    write(tmp_path / "p0.yaml", device="CPU")
    for number in range(1, MAX_DEPTH + 2):
        write(tmp_path / f"p{number}.yaml", extends=f"p{number - 1}.yaml")
    assert load_target(str(tmp_path / f"p{MAX_DEPTH}.yaml")).device == "CPU"
    with pytest.raises(ConfigError, match=rf"p{MAX_DEPTH + 1}.yaml: extends: more than {MAX_DEPTH} profiles deep"):
        load_target(str(tmp_path / f"p{MAX_DEPTH + 1}.yaml"))


def test_a_fault_in_what_is_inherited_names_all_files(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", device="CPU", genes={"subset_size": [0]})
    with pytest.raises(ConfigError, match=r"mine.yaml \(extends .*base.yaml\): genes.subset_size.0: input should be greater"):
        load_target(write(tmp_path / "mine.yaml", extends="base.yaml"))


def test_the_name_is_not_inherited(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("version: 1\nextends: cpu\n")
    with pytest.raises(ConfigError, match="name: required key is missing"):
        load_target(str(tmp_path / "mine.yaml"))


def test_a_misspelt_extends_is_told_the_right_word(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("version: 1\nname: mine\ndevice: CPU\nextend: cpu\n")
    with pytest.raises(ConfigError, match=r"extend: unknown key \(did you mean 'extends'\?\); accepted: .*, extends, "):
        load_target(str(tmp_path / "mine.yaml"))
