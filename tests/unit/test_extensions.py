"""Profiles and metrics of other packages, installed here as a folder with a .dist-info on the path."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ovquant import extensions
from ovquant.errors import ConfigError
from ovquant.job import MetricSpec
from ovquant.metrics.scores import build_metric
from ovquant.targets import find_target, list_targets, load_target, profiles

Install = Callable[..., Path]
PROFILE = "version: 1\nname: acme-edge\nextends: cpu-avx2\ndescription: Acme's box\ngenes: {subset_size: 50}\n"
METRIC = """
import numpy as np

def margin(outputs, labels):
    return [float(np.ravel(row)[label]) for row, label in zip(outputs["logits"], labels)]

def error(outputs, labels):
    return 1 - np.mean(margin(outputs, labels))

error.direction = "minimize"
odd = lambda outputs, labels: 0
odd.direction = "up"
number = 3
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that installs a package `acme...` with entry points."""

    def call(package: str, *, targets: str = "", metrics: str = "", **files: str) -> Path:
        site = tmp_path / f"site-{package}"
        (site / package).mkdir(parents=True)
        (site / package / "__init__.py").write_text(METRIC)
        for name, text in files.items():
            (site / package / f"{name.replace('_', '-')}.yaml").write_text(text)
        info = site / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[ovquant.targets]\n{targets}\n[ovquant.metrics]\n{metrics}\n")
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.delitem(sys.modules, package, raising=False)
        return site / package

    return call


def test_a_profile_of_a_package_goes_by_its_name(install: Install) -> None:
    folder = install("acme_one", targets="acme-edge = acme_one", acme_edge=PROFILE)
    assert find_target("acme-edge") == folder / "acme-edge.yaml"
    target = load_target("acme-edge")
    assert (target.device, target.genes.subset_size) == ("CPU", (50,))
    assert target.requirements == load_target("cpu-avx2").requirements
    lines: list[str] = []
    list_targets(lines.append)
    assert any(line.split() == ["acme-edge", "CPU", "Acme's", "box"] for line in lines)


def test_a_package_does_not_replace_a_shipped_profile(install: Install) -> None:
    install("acme_two", targets="cpu = acme_two", cpu=PROFILE)
    assert load_target("cpu").name == "cpu"
    assert profiles().count("cpu") == 1


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (
            "acme_three",
            r"entry point acme-edge = acme_three \(ovquant.targets\) of package acme_three: has no file acme-edge",
        ),
        ("acme_missing.profiles", "of package acme_three: cannot be imported: No module named 'acme_missing'"),
    ],
)
def test_a_broken_package_is_an_error_only_where_it_is_asked_for(install: Install, value: str, told: str) -> None:
    install("acme_three", targets=f"acme-edge = {value}")
    with pytest.raises(ConfigError, match=told):
        load_target("acme-edge")
    assert load_target("cpu").name == "cpu"
    lines: list[str] = []
    content = list_targets(lines.append)
    assert any(line.startswith("acme-edge  -     cannot be used: entry point") for line in lines)
    assert "error" in content["targets"][-1]


def test_two_packages_with_one_name_are_refused(install: Install) -> None:
    install("acme_four", targets="acme-edge = acme_four", acme_edge=PROFILE)
    install("acme_five", targets="acme-edge = acme_five", acme_edge=PROFILE)
    with pytest.raises(ConfigError, match="'acme-edge' comes with more than one package"):
        load_target("acme-edge")


def test_a_metric_of_a_package_is_scored_per_item_and_knows_its_direction(install: Install) -> None:
    install("acme_six", metrics="margin = acme_six:margin\nmiss = acme_six:error")
    outputs = {"logits": [np.array([[0.25, 0.75]]), np.array([[0.5, 0.5]])]}
    margin = build_metric(MetricSpec(name="margin"), ["logits"])
    items = margin.per_item(outputs, [1, 0])
    assert items is not None
    assert items.tolist() == [0.75, 0.5]
    miss = build_metric(MetricSpec(name="miss"), ["logits"])
    assert (miss.direction, miss.value(outputs, [1, 0])) == ("minimize", 0.375)
    assert build_metric(MetricSpec(name="margin", direction="minimize"), ["logits"]).direction == "minimize"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("acme_seven:nothing", "cannot be imported: module 'acme_seven' has no attribute 'nothing'"),
        ("acme_seven:number", r"is no function; expected f\(outputs, labels\)"),
        ("acme_seven:odd", "its attribute direction must be maximize or minimize, found 'up'"),
    ],
)
def test_a_metric_that_cannot_be_used_is_an_error(install: Install, value: str, told: str) -> None:
    install("acme_seven", metrics=f"theirs = {value}")
    with pytest.raises(ConfigError, match=told):
        build_metric(MetricSpec(name="theirs"), ["logits"])


def test_an_unknown_metric_is_told_what_is_installed(install: Install) -> None:
    install("acme_eight", metrics="margin = acme_eight:margin")
    with pytest.raises(ConfigError, match=r"did you mean 'margin'\?\).*margin, or file.py:function"):
        build_metric(MetricSpec(name="margim"), ["logits"])


def test_a_name_that_no_package_has_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no installed package has an entry point 'nobody'"):
        extensions.profile_path("nobody")
