"""Processes: objects whose threads live in one of them, and others that run a module of ours.

Native code of others may end its process, loop, or take all memory; in a process of its own that
costs an answer.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from pathgene_rt.errors import EngineError
from pathgene_rt.process_messages import Message, receive, send, told_of_broken_pipes

LONGEST = (1 << 32) - 1
"""What a message of :func:`ask_once` may have, in bytes: an ONNX file, or an engine."""

_LOOK_S = 0.5
"""How often a process that computes is looked at: Windows does not interrupt a longer wait."""

_END_S = 5.0
"""What a process that closed its output may take to end by itself."""


class OwnProcess:
    """The process that ``what`` was made in: a child that is forked has it, but not its threads.
    Ask before locks: another thread may hold them for ever in a child."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._pid = os.getpid()

    @property
    def is_this(self) -> bool:
        return os.getpid() == self._pid

    def require(self) -> None:
        """Raise EngineError in a child that was forked from it."""
        if not self.is_this:
            raise EngineError(
                f"{self._what} was opened by process {self._pid}, which this one was forked from "
                "without its threads; open the bundle in each process, or start processes by "
                "multiprocessing's method spawn"
            )


def python_executable() -> str:
    """The interpreter of this installation, also where another program embeds it.

    Raises OSError where there is none.
    """
    if Path(sys.executable or "").stem.lower().startswith("python"):
        return sys.executable
    folder = Path(sys.exec_prefix)
    name = "python.exe" if sys.platform == "win32" else "bin/python3"
    for candidate in (folder / name, Path(str(sysconfig.get_config_var("BINDIR"))) / "python3"):
        if candidate.is_file():
            return str(candidate)
    raise OSError(0, f"no Python interpreter in {folder}, for a process of its own")


def module_command(module: str, *arguments: str) -> list[str]:
    """What runs ``module`` in another process, which writes compiled Python files only if this one
    does. Raises OSError as :func:`python_executable` does.
    """
    quiet = ["-B"] if sys.dont_write_bytecode else []
    return [python_executable(), "-P", *quiet, "-m", module, *arguments]


def how_ended(code: int) -> str:
    """How a process ended that left ``code``, as :mod:`subprocess` has it: the end of a sentence
    that begins with the process."""
    if code > 0x7FFFFFFF:  # a fault, as Windows numbers them
        return f"crashed ({code:#010x})"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    faults = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSYS")
    return f"crashed ({name})" if name in faults else f"was ended ({name})"


class PipedProcess:
    """``command`` in a process that is spoken with over its stdin and stdout. ``stderr`` as
    :class:`subprocess.Popen` has it, ``more`` its other arguments. Raises OSError."""

    def __init__(
        self, command: Sequence[str], stderr: int | None = subprocess.DEVNULL, **more: Any
    ) -> None:
        self._process: subprocess.Popen[bytes] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, **more
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.requests: IO[bytes] = self._process.stdin
        self.answers: IO[bytes] = self._process.stdout
        self.stderr = self._process.stderr
        self.pid = self._process.pid

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """End it, whatever it is doing. Idempotent."""
        self._process.kill()

    def wait(self, seconds: float = 0.0) -> int:
        """Its exit code; it is ended if it has not ended by itself within ``seconds``."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        self.kill()
        return self._process.wait()

    def end(self) -> int:
        """End it, and close the pipes; its exit code. Idempotent."""
        self.kill()
        code = self._process.wait()
        for pipe in (self.requests, self.answers, self.stderr):
            if pipe is not None:
                # It may hold bytes for a process that is gone.
                with suppress(OSError), told_of_broken_pipes():
                    pipe.close()
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()


class ProcessEndedError(Exception):
    """A process gave no answer. Its text says why, after a word for the process: "crashed
    (SIGSEGV)"."""


def ask_once(
    module: str,
    request: Mapping[str, Any],
    payload: bytes = b"",
    *,
    seconds: float,
    elapsed: Callable[[float], None] | None = None,
) -> Message:
    """What ``module``, which calls :func:`answer_once`, answers in a process of its own; it is
    ended after ``seconds``, and with this process.

    ``elapsed`` is told the seconds so far, from the beginning on, and whatever it raises ends the
    process, as Ctrl-C does. Raises ProcessEndedError, OSError where no process can be started.
    """
    began = time.monotonic()
    answer: Future[Message] = Future()
    with PipedProcess(module_command(module), stderr=subprocess.PIPE) as process:
        said: deque[bytes] = deque(maxlen=1)

        def listen() -> None:
            assert process.stderr is not None
            with suppress(ValueError, OSError):
                said.extend(line for line in process.stderr if line.strip())

        def tell() -> None:
            with suppress(OSError):  # that it ended, the other pipe tells
                send(process.requests, request, payload)

        def take() -> None:
            try:
                answer.set_result(receive(process.answers, LONGEST))
            except (EOFError, OSError, ValueError):
                code = process.wait(_END_S)
                listener.join(_END_S)
                words = b"".join(said).decode("utf-8", "replace").strip()
                told = how_ended(code) + (f": {words}" if words else "")
                answer.set_exception(ProcessEndedError(told))

        listener = threading.Thread(target=listen, name="child-stderr", daemon=True)
        for thread in (
            listener,
            threading.Thread(target=tell, name="child-request", daemon=True),
            threading.Thread(target=take, name="child-answer", daemon=True),
        ):
            thread.start()
        while True:
            passed = time.monotonic() - began
            if elapsed is not None:
                elapsed(passed)
            if passed > seconds:
                raise ProcessEndedError(f"did not come to an end in {seconds:g} s")
            with suppress(TimeoutError):
                return answer.result(min(_LOOK_S, seconds))


def answer_once(work: Callable[[dict[str, Any], bytes], Message]) -> None:
    """What the process of :func:`ask_once` does: ``work`` makes the answer of header and payload.

    What libraries print goes to stderr. Ctrl-C is the asking process's: when that ends, or has
    enough, so does this one.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Not sys.stdin, whose lock a process must have to end.
    with os.fdopen(os.dup(0), "rb") as requests:
        request, payload = receive(requests, LONGEST)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    threading.Thread(target=_end_with_input, daemon=True).start()
    send(answers, *work(request, payload))


def _end_with_input() -> None:
    """End this process once nobody holds the other end of its input."""
    os.read(0, 1)
    os._exit(1)
