"""One worker of an archive: a warm predictor, slide after slide. It knows nothing of Ray."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import replace
from typing import Any

from pathgene_rt.archive.stores import is_url
from pathgene_rt.archive.tasks import (
    Ended,
    Hello,
    SlideTask,
    Task,
    WorkerSpec,
    package_sha256,
)
from pathgene_rt.archive.work import Work
from pathgene_rt.errors import PathGeneError


class Worker:
    """Does tasks of the run that ``spec`` describes, whose source has the hash ``package``.

    :meth:`open` says whether this machine can take part; until then there is no predictor.
    """

    def __init__(self, package: str, spec: dict[str, Any]) -> None:
        self._package = package
        self._document = spec
        self._work: Work | None = None

    def open(self) -> Hello:
        """Open the bundle, as far as it and this installation are those of the run."""
        hello = Hello(node=socket.gethostname(), pid=os.getpid(), clock=time.time())
        if package_sha256() != self._package:
            return replace(
                hello,
                refusal="another version of pathgene-rt is installed here (its source has the hash "
                f"{package_sha256()[:12]}, that of the run {self._package[:12]}); install the same",
            )
        spec = WorkerSpec(**self._document)
        if spec.nice and hasattr(os, "nice"):
            os.nice(spec.nice)
        try:
            work = Work.open(spec)
        except PathGeneError as error:
            return replace(hello, refusal=str(error))
        for folder, (path, wanted) in spec.bundles.items():
            found = work.predictors[folder].bundle.sha256
            if found != wanted:
                work.close()
                return replace(
                    hello,
                    refusal=f"the bundle {path} is another one here (hash {found[:12]}, that of "
                    f"the run {wanted[:12]}); copy it anew",
                )
        self._work = work
        engines = [predictor.encoder_engine for predictor in work.predictors.values()]
        shown = [f"{engine.backend} {engine.precision} on {engine.device}" for engine in engines]
        notes = [note for predictor in work.predictors.values() for note in predictor.notes]
        return replace(
            hello, engine=", ".join(dict.fromkeys(shown)), notes=tuple(dict.fromkeys(notes))
        )

    def do(self, task: Task, name: str) -> Ended:
        """Do one task, in an attempt of that ``name``, which a worker that dies leaves behind. What
        it fails of is in the answer; nothing is raised but by a worker that was not opened."""
        if self._work is None:
            raise RuntimeError("open the worker first")
        return self._work.do(task, name)

    def prepare(self, task: SlideTask) -> None:
        """Fetch the slide of the next task, if it lies in a store and is not done yet, while this
        one is."""
        if self._work is not None and is_url(task.source):
            self._work.prepare(task)

    def close(self) -> None:
        """Free the predictor. Idempotent."""
        if self._work is not None:
            self._work.close()
            self._work = None
