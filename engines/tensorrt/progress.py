"""How far a build is, from TensorRT's phases, and how it is stopped."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pathgene_rt.engines.backend import ProgressCallback
from pathgene_rt.engines.tensorrt.library import Library

if TYPE_CHECKING:
    import tensorrt as trt


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class BuildProgress:
    """The share of a build that is done, told as ``words`` and share. Thread-safe.

    TensorRT reports phases from several threads, under names that differ between its versions, so
    the names are used for nothing but to find a phase's parent. :meth:`cancel` ends the build at
    its next step; so does whatever ``progress`` raises, which is then in ``error``.
    """

    def __init__(self, words: str, progress: ProgressCallback | None) -> None:
        self._words, self._progress = words, progress
        self._lock = threading.Lock()
        self._phases: dict[str, _Phase] = {}
        self._share = 0.0
        self._cancelled = False
        self.error: BaseException | None = None

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def cancel(self) -> None:
        self._cancelled = True

    def restart(self) -> None:
        """Forget the phases of a build that failed: another begins."""
        with self._lock:
            self._phases.clear()
            self._share = 0.0

    def began(self, phase: str, parent: str | None, steps: int) -> None:
        with self._lock:
            self._phases[phase] = _Phase(parent, max(steps, 1))

    def step(self, phase: str) -> bool:
        """Count a step of ``phase``; whether the build is to go on."""
        with self._lock:
            if phase in self._phases:
                self._phases[phase].done += 1
            self._report()
            return not self._cancelled

    def ended(self, phase: str) -> None:
        with self._lock:
            self._phases.pop(phase, None)

    def _report(self) -> None:
        roots = [name for name, phase in self._phases.items() if phase.parent not in self._phases]
        # Phases that have not begun cannot be known: the share may only grow.
        self._share = max([self._share, *(self._done(root) for root in roots)])
        if self._progress is None or self.error is not None:
            return
        try:
            self._progress(self._words, self._share)
        except BaseException as error:  # noqa: BLE001 - raised again when the build has ended
            self.error, self._cancelled = error, True

    def _done(self, name: str) -> float:
        """The share of a phase, with what its parts have done of the step it is at."""
        phase = self._phases[name]
        parts = [self._done(child) for child, other in self._phases.items() if other.parent == name]
        return min((phase.done + max(parts, default=0.0)) / phase.steps, 1.0)


def monitor(library: Library, progress: BuildProgress) -> trt.IProgressMonitor:
    """What ``library`` calls during a build that ``progress`` follows. Raises EngineError."""
    if TYPE_CHECKING:
        import tensorrt
    else:
        tensorrt = library.api

    class Monitor(tensorrt.IProgressMonitor):
        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.began(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:  # noqa: ARG002
            return progress.step(phase_name)

        def phase_finish(self, phase_name: str) -> None:
            progress.ended(phase_name)

    return Monitor()
