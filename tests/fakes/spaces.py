"""Spaces of small profiles."""

from __future__ import annotations

from typing import Any

from fakes.operations import OPERATIONS
from ovquant.choices import ModelFacts, build_space
from ovquant.operations import Operation
from ovquant.space import SearchSpace
from ovquant.strategy import InferencePrecision
from ovquant.targets import Genes, Target

LAYERS = ("depthwise[0]", "MatMul[0]", "Convolution[0]")  # the most promising first


def facts(
    *,
    operations: tuple[Operation, ...] = OPERATIONS,
    n_calibration: int = 300,
    own: InferencePrecision = "f32",
    offered: tuple[str, ...] = ("f32", "bf16"),
    may_saturate: bool = True,
    can_align_channels: bool = True,
    layers: tuple[str, ...] = (),
) -> ModelFacts:
    return ModelFacts(
        operations=operations, n_calibration=n_calibration, own_precision=own, device_precisions=frozenset(offered),
        may_saturate=may_saturate, can_align_channels=can_align_channels, layers=layers,
    )  # fmt: skip


def target(genes: Genes | dict[str, Any], **keys: Any) -> Target:
    return Target.model_validate({"version": 1, "name": "test", "device": "CPU", "genes": genes, **keys})


def space_of(genes: Genes | dict[str, Any], **given_facts: Any) -> SearchSpace:
    return build_space(target(genes), facts(**given_facts))
