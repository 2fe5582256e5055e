"""A pass for Olive, in which a model is searched for its best quantization strategy.

Needs the package ``olive-ai``, which nothing else in ovquant imports. The pass is named to Olive by `package_config`.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from olive.common.config_utils import validate_config
from olive.data.config import DataConfig
from olive.hardware.accelerator import AcceleratorSpec
from olive.model import ONNXModelHandler, OpenVINOModelHandler
from olive.package_config import OlivePackageConfig
from olive.passes import Pass
from olive.passes.pass_config import PassConfigParam

from ovquant import api
from ovquant.errors import InterruptedSearchError, OvquantError
from ovquant.loading import MANIFEST
from ovquant.loop import Progress
from ovquant.progress import progress_mark, trial_line

NAME = "OvquantSearch"
_SEARCH = "Keys of a job file of ovquant: data, target, metrics, max_trials, budget ..."
_DATA = "Data of Olive, in place of search.data."
_LOG = logging.getLogger("olive.ovquant")  # under Olive's, so that its log level and its log file hold


def package_config() -> dict[str, Any]:
    """Return the passes that Olive ships and this one, for ``olive.workflows.run`` and ``olive run --package-config``."""
    content: dict[str, Any] = json.loads(Path(OlivePackageConfig.get_default_config_path()).read_text(encoding="utf-8"))
    everywhere = {"supported_providers": ["*"], "supported_accelerators": ["*"], "supported_precisions": ["*"]}
    content["passes"][NAME] = {"module_path": f"{__name__}.{NAME}", **everywhere}
    return content


class OvquantSearch(Pass):  # type: ignore[misc]  # Olive has no types
    """Runs ``ovquant.search`` on an ONNX or OpenVINO model, and hands on the winner's IR.

    In its folder are the recipe and the manifest; ``model_attributes["ovquant"]`` tells device and compile properties, which
    Olive's own handler does not apply.
    """

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        return {
            "search": PassConfigParam(type_=dict[str, Any], default_value={}, description=_SEARCH),
            "data_config": PassConfigParam(type_=DataConfig | dict, default_value=None, description=_DATA),
        }

    def _run_for_config(self, model: Any, config: Any, output_model_path: str) -> OpenVINOModelHandler:
        """Search, and return the winner.

        Raises:
            TypeError: the model is neither ONNX nor OpenVINO IR.
            ValueError: the search could not be done, or found nothing. It is of a kind that Olive lets through: others it logs,
                goes on without a model, and ends well.
            KeyboardInterrupt: the user stopped it; an equal workflow goes on with it.
        """
        given = config.search or {}
        if "model" in given:
            raise ValueError(f"{NAME}: search.model: the model is what Olive hands over; leave it out")
        if config.data_config is not None:
            if "data" in given:
                raise ValueError(f"{NAME}: give either search.data or data_config, not both")
            given = {**given, "data": validate_config(config.data_config, DataConfig).to_data_container().create_dataloader()}
        try:
            found = api.search(_file_of(model), **{"output": str(Path(output_model_path) / "search"), **given}, on_progress=_tell)
        except InterruptedSearchError as error:
            raise KeyboardInterrupt(str(error)) from error
        except OvquantError as error:
            raise ValueError(f"ovquant: {error}") from error
        for sentence in found.verdict.sentences:
            _LOG.info("ovquant: %s", sentence)
        manifest = json.loads((found.model.parent / MANIFEST).read_text(encoding="utf-8"))
        told = {"ovquant": {"search": str(found.output), **manifest["deployment"]}}
        return OpenVINOModelHandler(str(found.model.parent), model_attributes={**(model.model_attributes or {}), **told})


def _file_of(model: Any) -> str:
    if isinstance(model, ONNXModelHandler):
        return str(model.model_path)
    if isinstance(model, OpenVINOModelHandler):
        return str(model.model_config["model"])
    raise TypeError(f"{NAME} takes ONNXModel and OpenVINOModel, found {type(model).__name__}; convert it by an earlier pass")


def _tell(progress: Progress) -> None:
    _LOG.info("%s %s", progress_mark(progress), trial_line(progress))
