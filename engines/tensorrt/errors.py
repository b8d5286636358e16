"""What TensorRT says, and the one line that becomes of it.

TensorRT answers most failures with None or False and tells its logger why, from any thread.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from textwrap import shorten

from pathgene_rt.engines.cuda.errors import DeviceMemoryError, is_out_of_memory
from pathgene_rt.errors import EngineError, PathGeneError

_MESSAGE_LENGTH = 300
_KEPT = 64
"""Messages of each kind that one call keeps: an error in a loop must not fill the memory."""


@dataclass
class Messages:
    """What TensorRT logged during one call, oldest first."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def telling(self) -> str:
        """The message that says most of why the call failed, or an empty string.

        What follows the first error is mostly its consequence, except that being out of memory and
        lacking a kernel are told after the failures of single tactics. Without a driver, one that
        is too old is told after every fault of a graph.
        """
        for cause in _CAUSES:
            for text in self.errors[:1] if cause.first else self.errors:
                if cause.told_by(text):
                    return text
        return next(iter(self.errors), "") or next(reversed(self.warnings), "")


@dataclass(frozen=True)
class _Cause:
    """Which messages tell of a kind of failure, and what a user can do about it; ``first`` if they
    do so only where nothing failed before."""

    told_by: Callable[[str], object]
    advice: str
    first: bool = False


OTHER_ENGINE = "use --engine onnxruntime-cuda"
NEWER_DRIVER = "install a newer NVIDIA driver"
CLOSE_OTHERS = "close what else uses the GPU (nvidia-smi lists it)"
BUILD_AGAIN = "build it again"
"""What to do."""

_OLD_DRIVER = _Cause(
    # Not in the middle of what else went wrong, as "API Usage Error (... cudaError 35 ...".
    re.compile(
        r"^(?!.*(Usage|Internal) Error).*(driver version is insufficient|error: 35\b)",
        re.DOTALL,
    ).search,
    NEWER_DRIVER,
    first=True,
)

_CAUSES = (
    _Cause(
        is_out_of_memory,
        f"{CLOSE_OTHERS}, or build with a smaller --batch",
    ),
    _OLD_DRIVER,
    _Cause(
        re.compile(r"no kernel image|architecture is not supported|unsupported SM", re.I).search,
        f"this TensorRT does not know this GPU: {OTHER_ENGINE}",
    ),
    _Cause(
        re.compile(r"Could not find any implementation|within workspace limit", re.I).search,
        f"build with a larger --workspace, or {OTHER_ENGINE}",
    ),
    _Cause(
        re.compile(r"\bUINT8\b", re.I).search,
        "export the bundle again: older exports move bytes before they cast them",
    ),
)


_TOO_LARGE = re.compile(
    r"shape constraints|\bvolume\b.*\bexceeds|exceeds the (maximum|limit)|too large"
    r"|Could not find any implementation|within workspace limit",
    re.I,
)
"""What is said of sizes that a graph cannot have, or for which no kernel has enough memory."""


class ForeignPlanError(EngineError):
    """A plan that the library does not take here: of another version or GPU. Build it anew."""


class OldDriverError(EngineError):
    """The driver is too old for this library; nothing is wrong with what was asked."""


class TooLargeError(EngineError):
    """A build failed for the sizes that were asked for; it may not for smaller ones."""


class MessageLog:
    """Hands what TensorRT logs to those who listen: it has one logger a process. Thread-safe.

    Messages carry no call, so a listener also gets those of calls in other threads meanwhile.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: list[Messages] = []

    def error(self, text: str) -> None:
        with self._lock:
            for messages in self._listeners:
                _keep(messages.errors, text)

    def warning(self, text: str) -> None:
        with self._lock:
            for messages in self._listeners:
                _keep(messages.warnings, text)

    @contextmanager
    def listening(self) -> Iterator[Messages]:
        """What is logged from now until the block ends."""
        messages = Messages()
        with self._lock:
            self._listeners.append(messages)
        try:
            yield messages
        finally:
            with self._lock:
                # By identity: two listeners that heard the same are equal.
                self._listeners = [other for other in self._listeners if other is not messages]


LOG = MessageLog()


def _keep(texts: list[str], text: str) -> None:
    if len(texts) < _KEPT:
        texts.append(" ".join(text.split()))


@contextmanager
def native_errors(doing: str) -> Iterator[Messages]:
    """Turn whatever TensorRT raises into an EngineError of one line; yields what it logs.

    For an answer that means failure, raise :func:`failure` inside the block.
    """
    with LOG.listening() as said:
        try:
            yield said
        except (PathGeneError, MemoryError):
            raise
        except Exception as error:
            raise failure(doing, said, str(error) or type(error).__name__) from error


def failure(doing: str, said: Messages, otherwise: str = "it gave no reason") -> EngineError:
    """The error of a call that failed while TensorRT ``said`` something; else ``otherwise``.

    A DeviceMemoryError if GPU memory ran out, an OldDriverError if it is the driver's fault, a
    TooLargeError if it is about sizes.
    """
    text = said.telling or " ".join(otherwise.split())
    kind: type[EngineError] = TooLargeError if _TOO_LARGE.search(text) else EngineError
    if is_out_of_memory(text):
        kind = DeviceMemoryError
    elif _OLD_DRIVER.told_by(text):
        kind = OldDriverError
    return kind(f"tensorrt cannot {doing}: {shorten(text, _MESSAGE_LENGTH)}; {advice(text)}")


def advice(text: str) -> str:
    """What to do about the failure that ``text`` tells of."""
    return next((cause.advice for cause in _CAUSES if cause.told_by(text)), OTHER_ENGINE)
