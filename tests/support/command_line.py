"""The command line in this process: what a command prints and its exit code, without the second
that a process takes to import everything. What is about the process itself (signals, closed
streams, kills) starts one: tests/cli/test_entry.py."""

from __future__ import annotations

import io
import subprocess
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from pathgene_rt.cli import entry
from pathgene_rt.cli.terminal import steady_streams


def run_command(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """``pathgene-rt ARGUMENTS``, as it would end in the folder ``cwd``."""
    command = ["pathgene-rt", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, chdir(cwd or Path.cwd()):
        patch.setattr("sys.argv", command)
        with redirect_stdout(out), redirect_stderr(err), steady_streams():
            code = entry.run()
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())
