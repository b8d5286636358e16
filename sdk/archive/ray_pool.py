"""Workers as actors of Ray: of one that is started here, or of a cluster that is there.

Ray places the actors on its nodes, starts their processes and sees when one is gone.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathgene_rt.archive.own_folder import OwnFolder
from pathgene_rt.archive.pool import Died, Event, Finished, Opened
from pathgene_rt.archive.tasks import Ended, Hello, SlideTask, Task, WorkerSpec, package_sha256
from pathgene_rt.archive.worker import Worker
from pathgene_rt.engines.machine import usable_cpus
from pathgene_rt.engines.registry import backend_names
from pathgene_rt.errors import EngineUnavailableError, UsageError

CONNECT_S = 10.0
"""For the cluster's first node to answer."""

_OBJECT_STORE_BYTES = 80 << 20
"""What Ray asks for at least: tasks and answers are small, results go to files."""

_MAX_REASON = 300
_PREFIX = "pgrt-ray-"

_THREADS = 4
"""Of a worker on a CPU, where nothing else is said: more workers encode little faster, and each has
the bundle in memory."""


@dataclass(frozen=True)
class Share:
    """What each worker gets: processors, and GPUs (0 or 1)."""

    threads: int
    gpus: int


class WatchedWorker(Worker):
    """A worker of which a call that never ends tells at once when it is gone, also without a task:
    no slide is given to a dead one, and blamed for it."""

    def watch(self) -> None:
        threading.Event().wait()


class RayPool:
    """A :class:`~pathgene_rt.archive.pool.WorkerPool` of Ray's actors.

    ``address`` is that of a cluster ("host:6379", "auto"); empty: a Ray of this process's own, on
    the loopback interface's address, that ends with it. ``workers`` 0 are as many as there is place
    for, ``threads`` 0 suits the machines. ``devices`` are the GPUs of this machine that are used,
    by their numbers, one worker each; empty: all there are, at least one; None: those there are.

    Raises EngineUnavailableError if the cluster cannot be reached or is of another version of Ray.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        *,
        address: str = "",
        workers: int = 0,
        threads: int = 0,
        devices: Sequence[str] | None = None,
    ) -> None:
        # Before the import, which reads them.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._folder: OwnFolder | None = None
        if address:
            _require_answer(address)
        else:
            # Ray's servers listen on every interface; whoever lacks the token is refused. That is
            # read when Ray is imported.
            if "ray" in sys.modules and os.environ.get("RAY_AUTH_MODE") != "token":
                raise EngineUnavailableError(
                    "Ray was imported before, without a token, and would take orders from other "
                    "machines; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN before that"
                )
            os.environ.setdefault("RAY_AUTH_MODE", "token")
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            self._folder = OwnFolder(_PREFIX, _short_folder(), "set TMPDIR to another folder")
        try:
            import ray
        except BaseException:  # Ctrl-C: it takes seconds
            self._close_folder()
            raise
        self._ray = ray
        self._workers = workers
        self._backend = str(spec.engine.get("backend", "auto"))
        self._devices = devices
        self._actors: dict[int, Any] = {}
        self._asked: dict[Any, int] = {}
        """The worker whose answer an object reference is."""
        self._started = 0
        try:
            self._connect(address)
            self._share = self._share_of(threads)
            if devices is not None and not self._share.gpus:
                raise EngineUnavailableError("there is no GPU on this machine; leave out --devices")
        except BaseException:
            self.close()
            raise
        document = {**vars(spec), "engine": {**spec.engine, "threads": self._share.threads}}
        self._arguments = package_sha256(), document

    @property
    def share(self) -> Share:
        """What each worker gets."""
        return self._share

    def wanted(self) -> int:
        room = sum(self._room(node["Resources"]) for node in self._nodes())
        return min(room, self._workers) if self._workers else room

    def start(self) -> int:
        number = self._started = self._started + 1
        actor = (
            self._ray.remote(WatchedWorker)
            .options(
                num_cpus=self._share.threads,
                num_gpus=self._share.gpus,
                max_restarts=0,
                max_task_retries=0,
                max_concurrency=3,  # the task, the next one's preparation, the watch
            )
            .remote(*self._arguments)
        )
        self._actors[number] = actor
        self._asked[actor.watch.remote()] = number
        self._asked[actor.open.remote()] = number
        return number

    def submit(self, worker: int, task: Task, name: str) -> None:
        self._asked[self._actors[worker].do.remote(task, name)] = worker

    def prepare(self, worker: int, task: SlideTask) -> None:
        self._actors[worker].prepare.remote(task)

    def stop(self, worker: int) -> None:
        actor = self._actors.pop(worker)
        self._asked = {ref: number for ref, number in self._asked.items() if number != worker}
        self._ray.kill(actor)

    def wait(self, timeout_s: float) -> Sequence[Event]:
        refs = list(self._asked)
        if not refs:  # no worker has room, or none could stay
            time.sleep(timeout_s)
            return []
        ready, _ = self._ray.wait(refs, num_returns=len(refs), timeout=0)
        if not ready:
            ready, _ = self._ray.wait(refs, num_returns=1, timeout=timeout_s)
        # A death answers every call of its worker; the first one tells it.
        return [self._event(ref) for ref in ready if ref in self._asked]

    def close(self) -> None:
        for worker in list(self._actors):
            self.stop(worker)
        try:
            self._ray.shutdown()
        finally:
            self._close_folder()

    def _close_folder(self) -> None:
        if self._folder is not None:
            self._folder.close()

    def _event(self, ref: Any) -> Event:
        from ray.exceptions import RayError

        worker = self._asked.pop(ref)
        try:
            answer = self._ray.get(ref)
        except RayError as error:
            self.stop(worker)
            return Died(worker, _reason(error))
        if isinstance(answer, Hello):
            return Opened(worker, answer)
        assert isinstance(answer, Ended)
        return Finished(worker, answer)

    def _connect(self, address: str) -> None:
        common: dict[str, Any] = {
            "log_to_driver": False,
            "logging_level": "ERROR",
            "include_dashboard": False,
        }
        if self._folder is not None:
            if self._devices:
                # Ray hands these on, one to each worker.
                os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(self._devices)
                common["num_gpus"] = len(self._devices)
            common |= {
                "address": "local",
                "num_cpus": usable_cpus(),
                "object_store_memory": _OBJECT_STORE_BYTES,
                "_node_ip_address": "127.0.0.1",
                "_temp_dir": str(self._folder.path),
            }
        else:
            common["address"] = address
            del common["include_dashboard"]
        try:
            self._ray.init(**common)
        except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
            if address:
                what = f"cannot join the Ray cluster at {address}: {error}"
            else:
                what = f"Ray does not start on this machine: {error}"
            raise EngineUnavailableError(what) from error

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _room(self, resources: dict[str, float]) -> int:
        """Workers that a node of those ``resources`` has place for."""
        room = int(resources.get("CPU", 0)) // self._share.threads
        return min(room, int(resources.get("GPU", 0))) if self._share.gpus else room

    def _share_of(self, threads: int) -> Share:
        """What a worker gets; all get the same. Raises EngineUnavailableError."""
        found = [node["Resources"] for node in self._nodes()]
        on_gpu = self._backend not in backend_names(on_gpu=False)
        with_gpu = [one for one in found if one.get("GPU", 0) >= 1] if on_gpu else []
        usable = with_gpu or found
        cores = min((int(one.get("CPU", 0)) for one in usable), default=0)
        if cores < max(1, threads):
            raise EngineUnavailableError(
                f"a machine of the cluster has {cores} processors for workers, which take "
                f"{max(1, threads)}; give fewer --threads, or ray start --num-cpus"
            )
        if with_gpu and not threads:
            threads = max(1, min(int(one["CPU"]) // int(one["GPU"]) for one in with_gpu))
        if not threads and self._workers:
            everywhere = sum(int(one.get("CPU", 0)) for one in usable)
            threads = max(1, min(cores, everywhere // self._workers))
        return Share(threads or min(cores, _THREADS), gpus=1 if with_gpu else 0)


def _short_folder() -> Path:
    """Where Ray's sockets go: their paths, 77 bytes longer, may have 107."""
    folder = Path(tempfile.gettempdir())
    short = Path("/tmp")
    return short if len(os.fsencode(folder)) > 26 and short.is_dir() else folder


def _require_answer(address: str) -> None:
    """Raise at once where nobody listens: Ray would wait for a minute."""
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not port.isdigit() or not host:
        raise UsageError(
            f"--ray {address} is no address of a Ray cluster; give that of its head node as "
            "HOST:6379, or auto on one of its nodes"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise EngineUnavailableError(
            f"no Ray cluster answers at {address} ({why}); start its head with ray start --head, "
            "or leave out --ray to use this machine alone"
        ) from error


def _reason(error: Exception) -> str:
    """What Ray says of a death, in a line: of several the last, without what might be the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = lines[-1] if lines else type(error).__name__
    told = told.partition("Worker exit detail: ")[2] or told
    return told.partition(" Some common causes")[0][:_MAX_REASON]
