"""The command that is run for each result: arguments, never through a shell."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

from pathgene_rt.errors import UsageError

_SHOWN = 500


def parse_command(text: str) -> tuple[str, ...]:
    """The program and its arguments, split as a shell would and not given to one.

    Raises UsageError if it cannot be split or there is no such program.
    """
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"--on-done {text!r}: {error}; check its quotes") from error
    if not words:
        raise UsageError("--on-done is empty; give a program and its arguments")
    program = shutil.which(words[0])
    if program is None:
        raise UsageError(f"--on-done: there is no program {words[0]}; give its whole path")
    return (program, *words[1:])


def run_hook(command: tuple[str, ...], folder: Path, timeout_s: float) -> str:
    """Run ``command`` with ``folder`` as its last argument; why it failed, empty if it did not."""
    try:
        ended = subprocess.run(
            [*command, str(folder)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"did not end within {timeout_s:g} s"
    except OSError as error:
        return f"cannot be run: {error.strerror or error}"
    if ended.returncode == 0:
        return ""
    said = ended.stderr.decode(errors="replace").strip()[-_SHOWN:]
    return f"exit code {ended.returncode}" + (f": {said}" if said else "")
