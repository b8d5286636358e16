"""The console script: every command ends with one line and a documented exit code.

Imports little, so that Ctrl-C is answered from the first moment on.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time

from pathgene_rt.cli.allocator import bound_arenas
from pathgene_rt.cli.terminal import shown, steady_streams
from pathgene_rt.errors import CancelledError, EngineError, OutputError, PathGeneError

GRACE_S = 1.5
"""After Ctrl-C: what ends by itself in this time ends in order, else the process is ended."""

_INTERRUPTED = "interrupted; what was finished is kept"
_MAX_MESSAGE = 1000
_told = threading.Event()
"""Set once a failure was told."""


def main() -> None:
    """Run the command of ``sys.argv`` and leave through one of the documented exit codes."""
    try:
        _end_by_ctrl_c()
        with steady_streams():
            code = run()
    except OutputError as error:  # of the last flush
        code = _fail(error, str(error), error.exit_code)
    except KeyboardInterrupt as error:
        code = _fail(error, _INTERRUPTED, CancelledError.exit_code)
    sys.exit(code)


def run() -> int:
    """The exit code of the command of ``sys.argv``, after its one line of error."""
    try:
        bound_arenas()
        from pathgene_rt.cli.main import app

        app()
    except SystemExit as stop:
        if stop.code != CancelledError.exit_code:  # Typer's way of passing Ctrl-C on
            return stop.code if isinstance(stop.code, int) else 0
        return _fail(stop, _INTERRUPTED, CancelledError.exit_code)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last boundary
        return _fail(error, *_told_as(error))
    return 0


def _told_as(error: BaseException) -> tuple[str, int]:
    """What to say of ``error``, and the exit code."""
    if isinstance(error, PathGeneError):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return _INTERRUPTED, CancelledError.exit_code
    if isinstance(error, MemoryError):
        return "out of memory; use a smaller --batch or fewer --readers", EngineError.exit_code
    if isinstance(error, OSError):
        what = f"{error.filename}: " if error.filename else ""
        return f"{what}{error.strerror or error}", OutputError.exit_code
    message = f"unexpected {type(error).__name__}: {error}; please report it, with --debug"
    return message, PathGeneError.exit_code


def _fail(error: BaseException, message: str, exit_code: int) -> int:
    if "--debug" in sys.argv:
        import traceback

        traceback.print_exception(error)
    line = " ".join(message.split())
    cut = line if len(line) <= _MAX_MESSAGE else line[:_MAX_MESSAGE] + "..."
    if sys.stderr is not None:
        sys.stderr.write(f"error: {shown(cut)}\n")
        sys.stderr.flush()
    _told.set()
    return exit_code


def _end_by_ctrl_c() -> None:
    """From now on Ctrl-C ends the process even while its main thread is in native code, where
    Python answers no signal: compiling a graph, opening a file, waiting for threads at the end."""
    signals, wakeup = socket.socketpair()
    wakeup.setblocking(False)
    signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)

    def wait() -> None:
        while received := signals.recv(64):
            if signal.SIGINT in received:
                time.sleep(GRACE_S)
                if not _told.is_set():
                    os.write(2, f"error: {_INTERRUPTED}\n".encode())
                os._exit(CancelledError.exit_code)
        wakeup.close()

    threading.Thread(target=wait, name="ctrl-c", daemon=True).start()
