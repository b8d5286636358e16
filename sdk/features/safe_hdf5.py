"""HDF5 files read so that they can do no harm, whoever wrote them.

A file reaches nothing outside itself (links, external storage, virtual datasets and filters that
are plug-ins are refused), claims no more than its bytes can hold before anything is allocated, and
is looked at by a process that is ended if the HDF5 library loops or crashes
(:mod:`~pathgene_rt.features.hdf5_worker`).
"""

from __future__ import annotations

import atexit
import errno
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathgene_rt.features.hdf5_worker import UnsafeFileError
from pathgene_rt.own_process import PipedProcess, module_command
from pathgene_rt.process_messages import told_of_broken_pipes

TIMEOUT_S = 60
"""For an answer, starting included. The worker ends itself sooner if it computes all that time."""


@contextmanager
def open_hdf5(path: Path, *expected: str) -> Iterator[SafeHdf5File]:
    """The HDF5 file ``path``, until the end of the block. The datasets that are ``expected`` in it
    are looked at in one go: each question to the process takes as long as a small file's rows.

    Raises OSError with its ``errno`` where the system refuses (a lock, no permission),
    :class:`UnsafeFileError` for what the file is; so do the file's methods.
    """
    worker = _WORKERS.take()
    try:
        # Latin-1 carries the bytes of a name that is no text.
        name = os.fsencode(path.resolve()).decode("latin-1")
        opened = worker.ask({"do": "open", "path": name, "expected": expected}, path)
        yield SafeHdf5File(path, worker, opened["described"])
        worker.ask({"do": "close"}, path)
    except UnsafeFileError:
        worker.forget_file()
        raise
    except BaseException:
        worker.end()
        raise
    finally:
        _WORKERS.give(worker)


class SafeHdf5File:
    """What a features file consists of: datasets of numbers, and attributes."""

    def __init__(self, path: Path, worker: _Worker, described: dict[str, Any]) -> None:
        self._path = path
        self._worker = worker
        self._described = described

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Of the dataset ``name``; None if there is no such dataset."""
        found = self._describe(name)
        return None if found["shape"] is None else tuple(found["shape"])

    def members(self, name: str) -> tuple[str, ...] | None:
        """What lies in the group ``name``; None if there is no such group."""
        names = self._worker.ask({"do": "members", "name": name}, self._path)["names"]
        return None if names is None else tuple(names)

    def dtype(self, name: str) -> np.dtype[Any]:
        """Of the dataset ``name``, which must exist: integers or floating point."""
        found: np.dtype[Any] = np.dtype(self._describe(name)["dtype"])
        return found

    def rows(self, name: str) -> NDArray[Any]:
        """All of the dataset ``name``, which must exist. Raises MemoryError."""
        found = self._describe(name)
        array: NDArray[Any] = np.empty(found["shape"], np.dtype(found["dtype"]))
        if array.nbytes == 0:
            return array
        target = array.data.cast("B")
        if found["offset"] is None:
            self._worker.ask({"do": "rows", "name": name}, self._path, target)
            return array
        # Stored in one piece: there is nothing for the library to do.
        with self._path.open("rb", buffering=0) as file:
            file.seek(found["offset"])
            filled = 0
            while filled < len(target):
                count = file.readinto(target[filled:])
                if not count:
                    raise UnsafeFileError(f"{name!r} reaches past the end of the file")
                filled += count
        return array

    def attributes(self, *datasets: str) -> dict[str, Any]:
        """Numbers, lists of numbers and texts by name: the file's, and those of ``datasets``, of
        which the last one's go before."""
        answer = self._worker.ask({"do": "attributes", "holders": datasets}, self._path)
        values: dict[str, Any] = answer["values"]
        return values

    def _describe(self, name: str) -> dict[str, Any]:
        if name not in self._described:
            request = {"do": "describe", "name": name}
            self._described[name] = self._worker.ask(request, self._path)
        return _without_error(self._described[name], self._path)


def _without_error(answer: dict[str, Any], path: Path) -> dict[str, Any]:
    if "error" not in answer:
        return answer
    if answer["errno"] is not None:
        raise OSError(answer["errno"], os.strerror(answer["errno"]), str(path))
    raise UnsafeFileError(answer["error"])


class _Worker:
    """One process, asked by one thread at a time."""

    def __init__(self) -> None:
        self._process = PipedProcess(module_command("pathgene_rt.features.hdf5_worker"))
        self._pid = os.getpid()
        self._has_file = False
        self._timed_out = False

    @property
    def usable(self) -> bool:
        """Whether it can be asked: it runs, and is this process's, not that of one it was forked
        from."""
        return self._pid == os.getpid() and self._process.runs

    def ask(
        self, request: dict[str, Any], path: Path, target: memoryview | None = None
    ) -> dict[str, Any]:
        """The answer, its rows in ``target``. Raises as :func:`open_hdf5` does."""
        seconds = TIMEOUT_S + (len(target) >> 22 if target is not None else 0)
        watch = threading.Timer(seconds, self._time_out)
        watch.daemon = True
        watch.start()
        try:
            requests, answers = self._process.requests, self._process.answers
            with told_of_broken_pipes():
                requests.write(json.dumps(request).encode() + b"\n")
                requests.flush()
            line = answers.readline()
            answer = json.loads(line) if line.endswith(b"\n") else None
            if answer is not None and "error" not in answer and target is not None:
                filled = 0
                while filled < len(target):
                    count = answers.readinto(target[filled:])  # type: ignore[attr-defined]
                    if not count:
                        answer = None
                        break
                    filled += count
        except (BrokenPipeError, ValueError):
            answer = None
        finally:
            watch.cancel()
        if answer is None:
            self.end()
            if self._timed_out:
                raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), str(path))
            raise UnsafeFileError(
                "the HDF5 library crashed or did not come to an end with it; the file is damaged"
            )
        found = _without_error(answer, path)
        self._has_file = request["do"] != "close"
        return found

    def _time_out(self) -> None:
        self._timed_out = True
        self._process.kill()

    def forget_file(self) -> None:
        """Close the file after an error of its content."""
        if self._has_file and self.usable:
            with suppress(UnsafeFileError, OSError):
                self.ask({"do": "close"}, Path())

    def end(self) -> None:
        """End the process, whatever it is doing. Idempotent."""
        self._process.end()


class _Workers:
    """Workers that wait for the next file: as many as threads that ever read at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        atexit.register(self.end)

    def take(self) -> _Worker:
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker.usable:
                    return worker
        return _Worker()

    def give(self, worker: _Worker) -> None:
        if worker.usable:
            with self._lock:
                self._idle.append(worker)

    def end(self) -> None:
        with self._lock:
            for worker in self._idle:
                if worker.usable:
                    worker.end()
            self._idle.clear()


_WORKERS = _Workers()
