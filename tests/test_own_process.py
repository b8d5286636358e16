"""Processes that answer once: what happens in one costs an answer, and none outlives who asks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pathgene_rt import own_process
from pathgene_rt.own_process import ProcessEndedError, ask_once, how_ended

ANSWERS = """
import os, sys, time
from pathgene_rt.own_process import answer_once

def work(request, payload):
    os.write(1, b"what a library prints")
    sys.stderr.write("first\\nlast words\\n")
    sys.stderr.flush()
    exec(request["do"])
    return {"sum": sum(request["numbers"])}, payload[::-1]

answer_once(work)
"""

ASKS = """
import sys
from pathgene_rt import own_process
own_process.module_command = lambda _: [sys.executable, sys.argv[1]]
own_process._LOOK_S = 0.05

def tell(_):
    sys.stdout.write("asks")
    sys.stdout.flush()

own_process.ask_once("", {"do": "time.sleep(600)"}, seconds=600, elapsed=tell)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is run in place of any module."""
    script = tmp_path / "answers.py"
    script.write_text(ANSWERS)
    monkeypatch.setattr(own_process, "module_command", lambda _: [sys.executable, str(script)])
    return script


@pytest.mark.usefixtures("module")
def test_the_answer_comes_whole_whatever_is_printed() -> None:
    payload = bytes(range(256)) * 4096
    header, answer = ask_once("", {"do": "", "numbers": [1, 2]}, payload, seconds=60)
    assert header == {"sum": 3} and answer == payload[::-1]


@pytest.mark.skipif(os.name == "nt", reason="names signals of POSIX")
@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("code", "seconds", "words"),
    [
        ("os.abort()", 60, "crashed (SIGABRT): last words"),
        ("os.kill(os.getpid(), 9)", 60, "was ended (SIGKILL): last words"),
        ("os._exit(7)", 60, "ended with exit code 7: last words"),
        ("raise MemoryError('too much')", 60, "ended with exit code 1: MemoryError: too much"),
        ("time.sleep(600)", 0.5, "did not come to an end in 0.5 s"),
    ],
)
def test_what_happens_there_is_told(code: str, seconds: float, words: str) -> None:
    with pytest.raises(ProcessEndedError) as ended:
        ask_once("", {"do": code}, seconds=seconds)
    assert str(ended.value) == words


def test_how_windows_numbers_a_fault() -> None:
    assert how_ended(0xC0000005) == "crashed (0xc0000005)"


def test_it_writes_compiled_files_only_where_this_process_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for never in (True, False):
        monkeypatch.setattr(sys, "dont_write_bytecode", never)
        assert ("-B" in own_process.module_command("json.tool")) is never


@pytest.mark.usefixtures("module")
def test_whoever_asks_may_have_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_process, "_LOOK_S", 0.05)
    of_other_tests = psutil.Process().children()

    def enough(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask_once("", {"do": "time.sleep(600)"}, seconds=600, elapsed=enough)
    assert psutil.Process().children() == of_other_tests


HOST = """
import signal, sys
from pathgene_rt.own_process import PipedProcess
from pathgene_rt.process_messages import send

signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as in a program that embeds Python
with PipedProcess([sys.executable, "-c", ""]) as process:
    process.wait(60)
    try:
        send(process.requests, {}, bytes(1 << 20))
    except BrokenPipeError:
        print("told")
with PipedProcess([sys.executable, "-c", ""]) as process:
    process.wait(60)
    process.requests.write(b"held back until it is closed")
print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""


@pytest.mark.skipif(os.name == "nt", reason="a signal of POSIX")
def test_a_process_that_is_gone_does_not_end_a_host() -> None:
    ended = subprocess.run([sys.executable, "-c", HOST], stdout=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stdout) == (0, b"told\nset()\n")


@pytest.mark.skipif(os.name == "nt", reason="ends processes as POSIX does")
@pytest.mark.parametrize("whole_group", [False, True])
def test_it_ends_with_who_asks(module: Path, tmp_path: Path, whole_group: bool) -> None:
    """Also if that is killed, or all of them are asked to end; and no file is left."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", ASKS, str(module)],
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(temporary)},
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == b"asks"
        (child,) = psutil.Process(process.pid).children()
        if whole_group:
            os.killpg(process.pid, signal.SIGTERM)
        else:
            process.kill()
    _, alive = psutil.wait_procs([child], timeout=30)
    assert alive == []
    assert list(temporary.iterdir()) == []
