"""The parts of NNCF 3.4 beyond its public interface that sharing statistics needs, named in one place."""

from __future__ import annotations

import functools
import importlib
import types

from ovquant.quantization import plain

_SERIES = "3.4."
_PARTS = {
    "nncf.common": ("insertion_point_graph",),
    "nncf.common.factory": ("EngineFactory", "ModelTransformerFactory", "build_graph"),
    "nncf.common.tensor_statistics.collectors": (
        "AggregatorBase",
        "MaxAggregator",
        "MeanAggregator",
        "MinAggregator",
        "NoopAggregator",
        "RawReducer",
        "TensorCollector",
        "determine_reduction_axes",
    ),
    "nncf.common.tensor_statistics.statistical_functions": ("mean_per_channel",),
    "nncf.common.tensor_statistics.statistic_point": ("StatisticPoint", "StatisticPointsContainer"),
    "nncf.openvino.graph.model_utils": ("remove_friendly_name_duplicates",),
    "nncf.openvino.graph.node_utils": ("get_number_if_op", "get_result_node_name"),
    "nncf.openvino.quantization.quantize_model": ("compress_quantize_weights_transformation", "dump_parameters"),
    "nncf.openvino.statistics.aggregator": ("OVStatisticsAggregator",),
    "nncf.openvino.statistics.collectors": ("OVQuantileReducer",),
    "nncf.quantization.advanced_parameters": ("convert_to_dict_recursively",),
    "nncf.quantization.algorithms.fast_bias_correction.algorithm": ("FastBiasCorrection",),
    "nncf.quantization.algorithms.min_max.algorithm": ("MinMaxQuantization",),
    "nncf.quantization.algorithms.post_training.pipeline": ("create_ptq_pipeline",),
    "nncf.tensor": ("Tensor",),
    "nncf.tensor.functions": ("stack",),
}
_METHODS = {
    "AggregatorBase": ("register_reduced_input", "aggregate", "reset"),
    "FastBiasCorrection": ("_get_bias_shift",),
    "MinMaxQuantization": ("get_cached_statistic_points", "get_statistic_points"),
    "OVQuantileReducer": ("_reduce_out_of_place",),
    "OVStatisticsAggregator": ("_register_statistics", "collect_statistics", "register_statistic_points"),
    "insertion_point_graph": ("find_subgraphs_matching_pattern",),
    "TensorCollector": ("create_statistics_container", "register_statistic_branch", "set_cache"),
}


@functools.cache
def internals() -> types.SimpleNamespace:
    """Return these parts as attributes of one object.

    Raises:
        RuntimeError: they are not as expected; another version of NNCF.
    """
    package = plain.nncf()
    if not package.__version__.startswith(_SERIES):
        raise RuntimeError(f"NNCF {package.__version__} is not of the series {_SERIES}x")
    try:
        parts = {name: getattr(importlib.import_module(module), name) for module, names in _PARTS.items() for name in names}
        for owner, methods in _METHODS.items():
            for method in methods:
                getattr(parts[owner], method)
    except (ImportError, AttributeError) as error:
        raise RuntimeError(f"NNCF {package.__version__} lacks what sharing needs: {error}") from error
    return types.SimpleNamespace(**parts)
