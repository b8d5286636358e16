"""One run over an archive from its folder's lock to its last result."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from pathgene_rt.archive.layout import ArchiveLayout
from pathgene_rt.archive.lease import Lease
from pathgene_rt.archive.object_folder import ObjectFolder
from pathgene_rt.archive.pool import WorkerPool
from pathgene_rt.archive.queue import TaskQueue, in_order
from pathgene_rt.archive.results import FolderResults, Results
from pathgene_rt.archive.run import ArchiveRun, OnEnded, RunResult
from pathgene_rt.archive.source import ArchiveSlide, cases_of
from pathgene_rt.archive.state import ArchiveState
from pathgene_rt.archive.state_mirror import StateMirror, kept_here
from pathgene_rt.archive.stored_results import StoredResults
from pathgene_rt.archive.stores import is_url
from pathgene_rt.archive.tasks import WorkerSpec, bundle_folder
from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.cancellation import CancellationToken
from pathgene_rt.cases.places import CASES_FOLDER
from pathgene_rt.errors import FileAccessError, OutputError, UsageError
from pathgene_rt.files import is_safe_name, writable_folder, write_bytes
from pathgene_rt.locks import sole_writer

_LOCK_WAIT_S = 2.0
"""For a run that is just ending, and for `archive status`, which looks whether one is under way."""

OpenPool = Callable[[WorkerSpec], WorkerPool]


@dataclass(frozen=True)
class RunPlace:
    """``results`` are where they go; ``layout`` is the folder of the state and the table of ids:
    the same, or one of this machine, of which ``mirror`` keeps a copy with the results. ``token``
    ends the run that no longer has the place for itself."""

    layout: ArchiveLayout
    results: Results
    mirror: StateMirror | None = None
    token: CancellationToken | None = None


@contextmanager
def sole_run(out: Path | str, note: Callable[[str], None] = lambda _: None) -> Iterator[RunPlace]:
    """The archive's place ``out``, a folder or an address in a store, for one run at a time. What
    killed runs left of attempts is removed. Raises OutputError, UsageError."""
    url = str(out)
    here = kept_here(url) if is_url(url) else Path(out)
    folder = ObjectFolder(url) if is_url(url) else None
    if folder is not None:
        folder.require_conditional_writes()
    layout = ArchiveLayout(writable_folder(here.absolute()))
    try:
        layout.hidden.mkdir(exist_ok=True)
        with ExitStack() as stack:
            stack.enter_context(sole_writer(layout.state, _LOCK_WAIT_S))
            if folder is None:
                place = RunPlace(layout, FolderResults(layout))
            else:
                lease = Lease(folder, _machine(layout), note)
                stack.enter_context(lease.held())
                mirror = StateMirror(folder, layout, note, lease.token)
                mirror.fetch()
                results = StoredResults(folder, layout.attempts)
                place = RunPlace(layout, results, mirror, lease.token)
            place.results.drop_attempts()
            yield place
            place.results.drop_attempts()
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
    place: RunPlace,
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
    every = spec.bundles.values()
    facts = {
        "bundle": ", ".join(Path(path).name for path, _ in every),
        "bundle_sha256": ", ".join(digest for _, digest in every),
    }
    mirror = nullcontext() if place.mirror is None else place.mirror.meanwhile()
    with mirror, ArchiveState(place.layout.state) as state:
        before = state.begin(spec.kind, slides, socket.gethostname(), os.getpid(), facts)
        ordered = in_order(slides, before, by_case=with_cases)
        queue = TaskQueue(ordered, cases_of(slides) if with_cases else {})
        pool = open_pool(spec)
        try:
            run = ArchiveRun(
                place.results,
                queue,
                pool,
                state,
                max_rate=max_rate,
                token=place.token,
                ended=listeners.ended,
                note=listeners.note,
            )
            return run.run()
        finally:
            pool.close()


def _machine(layout: ArchiveLayout) -> str:
    """What tells runs whose state is in ``layout`` from those of other machines."""
    path = layout.hidden / "machine"
    if not path.exists():
        write_bytes(path, secrets.token_hex(16).encode())
    return path.read_text()


def bundle_sha256(path: Path) -> str:
    """Of the bundle that workers must have. Raises BundleError."""
    with Bundle.open(path) as bundle:
        return bundle.sha256


def several_bundles(paths: Sequence[Path]) -> list[tuple[str, str]]:
    """(path, hash) of the bundles of one extraction. Raises BundleError; UsageError where two share
    a name or an encoder, or a name is none for a folder of results."""
    by_folder: dict[str, Path] = {}
    by_encoder: dict[str, Path] = {}
    found = []
    for path in paths:
        folder = bundle_folder(str(path))
        other = by_folder.setdefault(folder.casefold(), path)
        if other is not path:
            raise UsageError(
                f"--bundle: {other} and {path} have the same name, which is that of the folder for "
                "their features; rename one"
            )
        taken = folder.casefold() in (CASES_FOLDER, "") or folder.startswith(".")
        if len(paths) > 1 and (taken or not is_safe_name(folder)):
            raise UsageError(f"--bundle {path}: {folder!r} cannot name a folder; rename the bundle")
        with Bundle.open(path) as bundle:
            other = by_encoder.setdefault(bundle.encoder.weights_sha256, path)
            found.append((str(path), bundle.sha256))
        if other is not path:
            raise UsageError(f"--bundle: {other} and {path} have the same encoder; name one")
    return found
