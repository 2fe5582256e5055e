"""From strategies to model files: built ahead by a thread of their own, but never while something is being timed."""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

from ovquant import runtime
from ovquant.errors import ModelError
from ovquant.operations import Operation
from ovquant.protocols import Sample, Watch, unwatched
from ovquant.quantization.shared import SharedQuantizer
from ovquant.quantization.store import ArrayStore
from ovquant.strategy import Strategy

_MODELS_BYTES = 2 << 30
_LONGEST_WAIT_S = 5.0
SHARED = "shared"  # what is done for many strategies at once
_MAX_AHEAD = 4  # models that are built and not yet asked for


@contextlib.contextmanager
def watched(watch: Watch, who: str, stage: str) -> Iterator[None]:
    """Tell a watch that a stage begins, and that it ended."""
    watch(who, stage, is_begun=True)
    try:
        yield
    finally:
        watch(who, stage, is_begun=False)


class Builder:
    """Makes the IR of a strategy and keeps it for a while.

    `announce` lets a thread begin with strategies that will be asked for; `build` waits for theirs, or makes it at once.
    """

    def __init__(
        self,
        model: Any,
        operations: Sequence[Operation],
        samples: Sequence[Sample],
        model_dir: Path,
        watch: Watch = unwatched,
    ) -> None:
        """Keep what is needed.

        Args:
            model: float model, an `openvino.Model`.
            operations: of `model`.
            samples: all calibration samples in order.
            model_dir: where files go; a directory of this run alone.
            watch: hears what is being built.
        """
        self._model_dir = model_dir
        self._watch = watch
        self._quantizer = SharedQuantizer(model, operations, samples, ArrayStore(model_dir / "statistics"))
        self._busy = threading.Lock()
        self._state = threading.Condition()
        self._n_pauses = 0
        self._queue: collections.deque[Strategy] = collections.deque()
        self._futures: dict[str, Future[Path]] = {}
        self._called: set[str] = set()
        self._unprepared: list[Strategy] = []
        self._thread: threading.Thread | None = None
        self._is_closed = False

    @property
    def fallback(self) -> str | None:
        """Why statistics cannot be shared, None where they can."""
        return self._quantizer.fallback

    @property
    def n_passes(self) -> int:
        """Passes over the calibration samples so far."""
        return self._quantizer.n_passes

    def announce(self, strategies: Sequence[Strategy]) -> None:
        """Begin with strategies that will be asked for soon, in that order, in place of what was announced before."""
        with self._state:
            running = {digest: future for digest, future in self._futures.items() if future.running()}
            for digest, future in self._futures.items():
                if digest not in running:
                    future.cancel()  # who waits for it builds by itself
            wanted = () if self._is_closed else strategies
            new = {s.model_digest: s for s in wanted if s.model_digest not in running and not self.path(s).exists()}
            self._queue = collections.deque(new.values())
            self._unprepared = list(new.values())
            self._futures = running | {digest: Future() for digest in new}
            if new and self._thread is None:
                self._thread = threading.Thread(target=self._work, name="ovquant-builder", daemon=True)
                self._thread.start()
            self._state.notify_all()

    def path(self, strategy: Strategy) -> Path:
        """Return where a strategy's IR is, once it was built."""
        return self._model_dir / f"{strategy.model_digest}.xml"

    def build(self, strategy: Strategy) -> Path:
        """Return the IR of a strategy.

        Raises:
            ModelError: nothing was quantized.
            Exception: whatever NNCF raises.
        """
        future = self._called_for(strategy)
        if future is not None:
            try:
                future.result()
            except CancelledError:
                pass
            finally:
                with self._state:
                    if self._futures.get(strategy.model_digest) is future:
                        del self._futures[strategy.model_digest]
                    self._called.discard(strategy.model_digest)
                    self._state.notify_all()
        with self.paused():
            return self._make(strategy)

    def _called_for(self, strategy: Strategy) -> Future[Path] | None:
        """Return the future of an announced strategy, which is made next if it is still in the queue."""
        digest = strategy.model_digest
        with self._state:
            future = self._futures.get(digest)
            queued = next((s for s in self._queue if s.model_digest == digest), None)
            if queued is not None:
                self._queue.remove(queued)
                self._queue.appendleft(queued)
                self._called.add(digest)
                self._state.notify_all()
        return future

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Let the thread finish what it is at, and begin nothing new."""
        with self._state:
            self._n_pauses += 1
        self._busy.acquire()
        try:
            yield
        finally:
            self._busy.release()
            with self._state:
                self._n_pauses -= 1
                self._state.notify_all()

    def close(self) -> None:
        """Begin nothing more, and wait a few seconds for what is under way: native code should not run at exit."""
        self.announce(())
        with self._state:
            self._is_closed = True
            self._state.notify_all()
        if self._busy.acquire(timeout=_LONGEST_WAIT_S):
            self._busy.release()

    def _is_due(self) -> bool:
        if self._is_closed:
            return True
        if not self._queue or self._n_pauses:
            return False
        n_ahead = sum(future.done() for future in self._futures.values())
        return n_ahead < _MAX_AHEAD or self._queue[0].model_digest in self._called

    def _work(self) -> None:
        while True:
            with self._state:
                self._state.wait_for(self._is_due)
                if self._is_closed:
                    return
                unprepared, self._unprepared = self._unprepared, []
                strategy = self._queue.popleft()
                future = self._futures[strategy.model_digest]
                future.set_running_or_notify_cancel()
                self._busy.acquire()
            try:
                if unprepared:
                    with watched(self._watch, SHARED, "calibrate"):
                        self._quantizer.prepare(unprepared)
                future.set_result(self._make(strategy))
            except Exception as error:
                future.set_exception(error)
            finally:
                self._busy.release()
                with self._state:
                    self._state.notify_all()

    def _make(self, strategy: Strategy) -> Path:
        path = self.path(strategy)
        if not path.exists():
            # Accurate bias correction takes many times as long, and is watched as another thing.
            with watched(self._watch, strategy.digest, "build" if strategy.canonical().fast_bias_correction else "correct"):
                quantized = self._quantizer.quantize(strategy)
                if runtime.count_fake_quantize(quantized) == 0:
                    raise ModelError("nothing was quantized: the ignored scope covers all that NNCF would quantize")
                runtime.save_model(quantized, path)
            _drop_oldest(path)
        return path


def _drop_oldest(newest: Path) -> None:
    """Keep the files below a limit; what was dropped is built again when it is asked for."""
    kept = []
    for path in newest.parent.glob("*.xml"):
        with contextlib.suppress(FileNotFoundError):  # somebody else tidies up as well
            kept.append((path.stat().st_mtime, runtime.size_bytes(path), path))
    total = sum(size for _, size, _ in kept)
    for _, size, path in sorted(kept):
        if total <= _MODELS_BYTES or path == newest:
            return
        total -= size
        path.unlink(missing_ok=True)
        path.with_suffix(".bin").unlink(missing_ok=True)
