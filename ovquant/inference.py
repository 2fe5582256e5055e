"""Compiled models, run on samples."""

from __future__ import annotations

import collections
import contextlib
import operator
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ovquant.errors import ModelError, first_line
from ovquant.protocols import Array, Sample
from ovquant.runtime import PRECISION_NAMES, core, openvino, output_names

if TYPE_CHECKING:
    import openvino as ov

    from ovquant.strategy import InferencePrecision


class CompiledModel:
    """A model compiled for a device, run one sample at a time.

    The CPU plugin keeps pointers to the last request's inputs and outputs, and has been seen to write there when the next
    request begins, with dynamic shapes at least. So requests live as long as the model, and inputs are copies that outlive
    the inferences after them.
    """

    def __init__(
        self, model: ov.Model, device: str, properties: Mapping[str, Any], precision: InferencePrecision | None = None
    ) -> None:
        """Compile.

        Args:
            model: what to compile.
            device: OpenVINO device.
            properties: compile properties.
            precision: goes over ``INFERENCE_PRECISION_HINT`` in `properties`; None leaves it.

        Raises:
            ModelError: the device's plugin cannot compile it.
        """
        config = dict(properties)
        if precision is not None:
            config["INFERENCE_PRECISION_HINT"] = precision
        start = time.perf_counter()
        try:
            self._compiled = core().compile_model(model, device, config)
        except Exception as error:
            raise ModelError(f"cannot be compiled for {device}: {first_line(error)}") from error
        self.compile_s = time.perf_counter() - start
        self.n_requests = self._n_at_a_time()
        self._requests = [self._compiled.create_infer_request() for _ in range(self.n_requests)]
        self._timed: list[Any] = []
        self._inputs: collections.deque[Sample] = collections.deque(maxlen=2 * len(self._requests) + 2)
        self._output_names = output_names(self._compiled)

    @property
    def precision(self) -> InferencePrecision:
        """The float precision that the device runs it in."""
        found = self._compiled.get_property("INFERENCE_PRECISION_HINT")
        name = found.get_type_name() if hasattr(found, "get_type_name") else str(found)
        return PRECISION_NAMES.get(name, "f32")

    @property
    def n_threads(self) -> int:
        """Inference threads; 0 where the device has none to tell."""
        try:
            return int(self._compiled.get_property("INFERENCE_NUM_THREADS"))
        except RuntimeError:
            return 0

    def infer(self, sample: Sample) -> dict[str, Array]:
        """Return output name -> array for one sample.

        Raises:
            ModelError: the model cannot be run on it.
        """
        try:
            results = self._requests[0].infer(self._copied(sample), share_inputs=True)
        except Exception as error:
            raise ModelError(f"inference failed: {first_line(error)}") from error
        return {name: np.array(results[index]) for index, name in enumerate(self._output_names)}

    @property
    def compiled(self) -> ov.CompiledModel:
        """OpenVINO's own object."""
        return self._compiled

    def infer_many(self, samples: Iterable[Sample]) -> Iterator[dict[str, Array]]:
        """Yield output name -> array for each sample in order; as many are under way at a time as the device likes.

        Raises:
            ModelError: the model cannot be run on one of them.
        """
        try:
            with contextlib.closing(_in_turns(self._requests, map(self._copied, samples))) as finished:
                for request in finished:
                    yield {name: np.array(array) for name, array in zip(self._output_names, _outputs(request), strict=True)}
        except RuntimeError as error:
            raise ModelError(f"inference failed: {first_line(error)}") from error

    def _copied(self, sample: Sample) -> dict[str, Array]:
        copied = {name: array.copy() for name, array in sample.items()}
        self._inputs.append(copied)
        return copied

    def _n_at_a_time(self) -> int:
        if _is_dynamic(self._compiled):
            return 1
        try:
            return max(2, int(self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")))
        except RuntimeError:
            return 2

    def runner(self, sample: Sample) -> Callable[[], None]:
        """Return a function that runs one inference on `sample`, to be timed: inputs are set here, outputs not copied."""
        request = self._ready_request(sample)

        # Synchronous: an asynchronous request adds the wake-up of a thread, which varies far more than small models take.
        def run() -> None:
            request.infer(share_outputs=True)

        return run

    def crowd(self, sample: Sample) -> Callable[[int], None]:
        """Return a function that runs so many inferences on `sample`, as many at a time as the device likes.

        It is to be timed: inputs are set here, outputs not copied.
        """
        requests = [self._ready_request(sample) for _ in range(self.n_requests)]

        def run(n_inferences: int) -> None:
            for index in range(n_inferences):
                request = requests[index % len(requests)]
                if index >= len(requests):
                    request.wait()
                request.start_async()
            for request in requests[:n_inferences]:
                request.wait()

        return run

    def _ready_request(self, sample: Sample) -> Any:
        request = self._compiled.create_infer_request()
        for name, array in sample.items():
            request.set_tensor(name, openvino().Tensor(np.ascontiguousarray(array)))
        self._timed.append(request)
        return request


def outputs_of_each(model: ov.Model, samples: Iterable[Sample]) -> Iterator[dict[str, Array]]:
    """Run a model at f32 on the CPU, as NNCF does for calibration; yield tensor name -> array for each sample in order.

    The next sample is run while the outputs of one are worked on. They are views: what is kept of them has to be copied.

    Raises:
        RuntimeError: it cannot be compiled or run.
    """
    compiled = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = [sorted(port.get_names()) for port in compiled.outputs]
    requests = [compiled.create_infer_request() for _ in range(1 if _is_dynamic(compiled) else 2)]
    inputs: collections.deque[Sample] = collections.deque(maxlen=4)  # the plugin may still point to them, see CompiledModel

    def remembered() -> Iterator[Sample]:
        for sample in samples:
            inputs.append(sample)
            yield sample

    with contextlib.closing(_in_turns(requests, remembered())) as finished:
        for request in finished:
            arrays = zip(names, _outputs(request), strict=True)
            yield {name: array for found, array in arrays for name in found}


def _is_dynamic(compiled: ov.CompiledModel) -> bool:
    """Return whether requests have to run one at a time: with dynamic shapes the CPU plugin has crashed on overlapping ones."""
    return any(port.get_partial_shape().is_dynamic for port in compiled.inputs)


def _outputs(request: Any) -> list[Array]:
    """Return views of a request's outputs, which its next run writes to."""
    return list(map(operator.attrgetter("data"), request.output_tensors))


def _in_turns(requests: Sequence[Any], samples: Iterable[Sample]) -> Generator[Any]:
    """Run samples in order, as many at a time as there are requests; yield the request of each, which runs again only then."""
    free = list(requests)
    busy: collections.deque[Any] = collections.deque()

    def finished() -> Any:
        request = busy.popleft()
        request.wait()
        free.append(request)
        return request

    try:
        for sample in samples:
            if not free:
                yield finished()
            request = free.pop()
            request.start_async(sample, share_inputs=True)
            busy.append(request)
        while busy:
            yield finished()
    finally:
        for request in busy:  # the next one to use it finds it at rest
            request.cancel()
            with contextlib.suppress(RuntimeError):
                request.wait()
