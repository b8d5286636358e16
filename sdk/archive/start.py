"""One run over an archive from its folder's lock to its last result."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pathgene_rt.archive.layout import ArchiveLayout
from pathgene_rt.archive.pool import WorkerPool
from pathgene_rt.archive.publish import discard_all
from pathgene_rt.archive.queue import TaskQueue, in_order
from pathgene_rt.archive.run import ArchiveRun, OnEnded, RunResult
from pathgene_rt.archive.source import ArchiveSlide, cases_of
from pathgene_rt.archive.state import ArchiveState
from pathgene_rt.archive.tasks import WorkerSpec
from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.errors import FileAccessError, OutputError
from pathgene_rt.files import writable_folder
from pathgene_rt.locks import sole_writer

_LOCK_WAIT_S = 2.0
"""For a run that is just ending, and for `archive status`, which looks whether one is under way."""

OpenPool = Callable[[WorkerSpec], WorkerPool]


@contextmanager
def sole_run(out: Path) -> Iterator[ArchiveLayout]:
    """The archive's folder ``out``, for one run at a time. What killed runs left of attempts is
    removed. Raises OutputError."""
    layout = ArchiveLayout(writable_folder(out.absolute()))
    try:
        layout.hidden.mkdir(exist_ok=True)
        with sole_writer(layout.state, _LOCK_WAIT_S):
            discard_all(layout)
            yield layout
    except FileAccessError as error:
        raise OutputError(
            f"another archive run writes to {out}; wait for it to end, or choose another --out"
        ) from error


@dataclass(frozen=True)
class Listeners:
    """Who hears of a run: ``ended`` of each task, ``note`` of what is worth telling meanwhile."""

    ended: OnEnded
    note: Callable[[str], None]


def run_archive(
    layout: ArchiveLayout,
    slides: Sequence[ArchiveSlide],
    spec: WorkerSpec,
    open_pool: OpenPool,
    listeners: Listeners,
    *,
    max_rate: int = 0,
) -> RunResult:
    """Do what ``spec`` says of all ``slides`` with the workers of ``open_pool``, within
    :func:`sole_run`. Raises as :meth:`ArchiveRun.run` does, and what ``open_pool`` raises.
    """
    with_cases = spec.kind == "predict"
    facts = {"bundle": Path(spec.bundle).name, "bundle_sha256": spec.bundle_sha256}
    with ArchiveState(layout.state) as state:
        before = state.begin(spec.kind, slides, socket.gethostname(), os.getpid(), facts)
        ordered = in_order(slides, before, by_case=with_cases)
        queue = TaskQueue(ordered, cases_of(slides) if with_cases else {})
        pool = open_pool(spec)
        try:
            run = ArchiveRun(
                layout,
                queue,
                pool,
                state,
                max_rate=max_rate,
                ended=listeners.ended,
                note=listeners.note,
            )
            return run.run()
        finally:
            pool.close()


def bundle_sha256(path: Path) -> str:
    """Of the bundle that workers must have. Raises BundleError."""
    with Bundle.open(path) as bundle:
        return bundle.sha256
