"""The error tree: every failure a caller can expect is a :class:`PathGeneError`.

``code`` is shared with the C header (``PGRT_E_*``) and never changes meaning; ``exit_code`` is what
the command line returns (README, "Exit codes"). A message is one line: what, which value, what
to do.
"""

from __future__ import annotations

from typing import ClassVar


class PathGeneError(Exception):
    """Base of all errors of this package."""

    code: ClassVar[int] = 1
    exit_code: ClassVar[int] = 1

    def __str__(self) -> str:
        """One line, also where it quotes a file or another library that has several."""
        return " ".join(super().__str__().split())


def said_by(error: BaseException) -> str:
    """What ``error`` of another library says, in one line; its name if that is nothing."""
    return " ".join(str(error).split()) or type(error).__name__


class UsageError(PathGeneError, ValueError):
    """An option, configuration or table that makes no sense; nothing was computed."""

    code = 10
    exit_code = 2


class OutputError(UsageError, OSError):
    """A place that cannot be written: missing permission, full disk, an existing result."""

    code = 11


class SlideError(PathGeneError):
    """This slide cannot be predicted; others may be."""

    code = 20
    exit_code = 3


class SlideOpenError(SlideError, OSError):
    """Not there, not a slide, or of a kind that no reader opens."""

    code = 21


class SlideReadError(SlideError, OSError):
    """Opened, but its pixels cannot be read or decoded."""

    code = 22


class TileDecodeError(SlideReadError):
    """The stored pixels of one region are damaged; the rest of the slide can still be read."""

    code = 27


class SlideScaleError(SlideError, ValueError):
    """No micrometres per pixel, or a scale that the bundle's encoder was not made for."""

    code = 23


class NoTissueError(SlideError, ValueError):
    """The slide holds no tile with enough tissue."""

    code = 24


class FeatureFileError(SlideError, ValueError):
    """A features or coordinates file that is not what it should be."""

    code = 25


class BagError(SlideError, ValueError):
    """A bag that a head cannot take: empty, not finite, or of another encoder's width."""

    code = 26


class FileAccessError(SlideError, OSError):
    """A file that cannot be read or written now: another process has it, there is no permission, or
    the disk fails. Nothing is known about its content; it is as it was."""

    code = 28


class BundleError(PathGeneError):
    """A bundle that is damaged, hostile, or of an unknown schema version."""

    code = 30
    exit_code = 4


class CheckpointError(BundleError):
    """Weights that do not fit the architecture, or a checkpoint file of another format."""

    code = 31


class EngineError(PathGeneError, RuntimeError):
    """A graph could not be compiled or run."""

    code = 40
    exit_code = 5


class EngineUnavailableError(EngineError):
    """The engine, device or precision that was asked for is not on this machine."""

    code = 41


class EncodedTileError(EngineError):
    """The engine cannot decode these encoded tiles itself; whoever reads their pixels may."""


class MissingExtraError(EngineUnavailableError, ImportError):
    """A command needs a package that this installation lacks; the message names the extra."""

    code = 42


class VerificationError(PathGeneError):
    """Outputs differ from the reference by more than the limits allow."""

    code = 50
    exit_code = 6


class BatchError(PathGeneError):
    """Some slides of a batch failed; the others were done."""

    code = 60
    exit_code = 7


class CancelledError(PathGeneError):
    """The caller (or Ctrl-C) stopped the work."""

    code = 70
    exit_code = 130


class DriftError(PathGeneError):
    """What is monitored is no longer as it was: an alarm, for whoever runs it by the clock."""

    code = 90
    exit_code = 8


class ScanError(PathGeneError):
    """A slide that is pushed while it is scanned cannot go on as asked."""

    code = 80
    exit_code = 3


class ScanInputError(ScanError, ValueError):
    """Pixels, a rectangle or a scale that cannot be; nothing was taken, the session goes on."""

    code = 81


class ScanStateError(ScanError, RuntimeError):
    """A call that comes too late: a push after finish, a second finish, a closed session."""

    code = 82


class ScanMemoryError(ScanError, MemoryError):
    """Tiles that are not whole yet would need more memory than the session may take."""

    code = 83


class ScanTimeoutError(ScanError, TimeoutError):
    """The report was not ready in time; the work goes on."""

    code = 84


def slide_failure(error: Exception, name: str) -> PathGeneError:
    """What the slide or case ``name`` failed of, when ``error`` came out of its work: the error
    itself if it is one of these, else the one that fits. Readers, codecs and engines are others'
    code, which a hostile or damaged file can make raise anything.
    """
    if isinstance(error, PathGeneError):
        return error
    said = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        failure: PathGeneError = EngineError(
            f"{name}: out of memory; use a smaller --batch or fewer --readers"
        )
    elif isinstance(error, OSError):
        failure = SlideReadError(f"{name}: {said}; check the file and its disk")
    else:
        failure = SlideError(
            f"{name}: cannot be predicted ({type(error).__name__}: {said}); check the file, and "
            "report this with what --debug shows"
        )
    failure.__cause__ = error
    return failure
