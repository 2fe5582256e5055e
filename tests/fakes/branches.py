"""Branches, entries and reducers to test statistics with."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from nncf.common.tensor_statistics.collectors import AxesMode, NoopAggregator, RawReducer
from nncf.openvino.statistics import collectors as ov_parts
from nncf.tensor import Tensor
from openvino import opset13 as opset

from ovquant.protocols import Array
from ovquant.quantization.branches import Branch
from ovquant.quantization.store import ArrayStore


def assert_equal(found: Sequence[Array] | None, expected: Sequence[Array]) -> None:
    assert found is not None
    assert [(array.dtype, array.shape) for array in found] == [(array.dtype, array.shape) for array in expected]
    assert [array.tobytes() for array in found] == [array.tobytes() for array in expected]


def stored(entry: Sequence[Array]) -> Sequence[Array]:
    """Return an entry as another process reads it."""
    with tempfile.TemporaryDirectory() as folder:
        ArrayStore(Path(folder)).put({"ab": entry})
        store = ArrayStore(Path(folder))
        found = store.get("ab")
        store.close()
    assert found is not None
    return found


def tensors(arrays: Sequence[Array]) -> list[Tensor]:
    return [Tensor(array) for array in arrays]


KEPT, REDUCED = AxesMode.KEEP, AxesMode.REDUCTION
REDUCERS: dict[str, Callable[[bool], Any]] = {
    "minimum": lambda inplace: ov_parts.OVMinReducer(None, REDUCED, inplace),
    "maximum per channel": lambda inplace: ov_parts.OVMaxReducer((0, 2), REDUCED, inplace),
    "maximum, channel kept": lambda inplace: ov_parts.OVAbsMaxReducer((1,), KEPT, inplace),
    "maximum over the last axis": lambda inplace: ov_parts.OVMaxReducer((-1,), REDUCED, inplace),
    "mean per channel": lambda inplace: ov_parts.OVMeanPerChanelReducer(1, inplace),
    "mean over the batch": ov_parts.OVBatchMeanReducer,
    "shape": ov_parts.OVShapeReducer,
    "quantile": lambda inplace: ov_parts.OVQuantileReducer((0, 2), REDUCED, (0.25,)),
    "whole": lambda inplace: RawReducer(),
}


def branch(
    key: str = "key",
    *,
    reducer: Any = None,
    shape: Sequence[int] | ov.PartialShape = (1, 4, 8),
    n_samples: int = 5,
    is_aggregated: bool | None = None,
    tensor: str = "tensor",
    port: int = 0,
    aggregator: Any = None,
) -> Branch:
    """Return a branch on a tensor; whole tensors are aggregated unless told otherwise."""
    reducer = reducer or REDUCERS["minimum"](True)
    return Branch(
        place=key,
        key=key,
        result_key=f"result of {key}",
        tensor=tensor,
        point=None,
        source=(opset.relu(opset.parameter(shape, np.float32)), 0),
        reducer=reducer,
        port=port,
        aggregator=aggregator or NoopAggregator(n_samples),
        n_samples=n_samples,
        is_aggregated=isinstance(reducer, RawReducer) if is_aggregated is None else is_aggregated,
    )


def quantiles(*shares: float, axes: Sequence[int] | None = (0, 2)) -> Any:
    return ov_parts.OVQuantileReducer(axes, REDUCED, shares)


def absolute(*shares: float) -> Any:
    return ov_parts.OVAbsQuantileReducer((0, 2), REDUCED, shares)


def per_sample(min_size: int = 1) -> st.SearchStrategy[list[Array]]:
    """Return lists of arrays, of one shape or of several."""
    shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=3)
    dtypes = st.sampled_from(["float32", "float64", "int64"])

    def arrays(dtype: str, shape: st.SearchStrategy[tuple[int, ...]]) -> st.SearchStrategy[list[Array]]:
        return st.lists(hnp.arrays(dtype, shape), min_size=min_size, max_size=6)

    one = st.tuples(dtypes, shapes).flatmap(lambda drawn: arrays(drawn[0], st.just(drawn[1])))
    return one | dtypes.flatmap(lambda dtype: arrays(dtype, shapes))
