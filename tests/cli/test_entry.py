"""Whatever happens, a command ends with a documented exit code and one line on stderr."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pathgene_rt.cli.terminal import shown, shown_lines
from tests.support import tiny_models as tiny

posix = pytest.mark.skipif(os.name == "nt", reason="sends signals, closes descriptors")

COMMAND = [sys.executable, "-m", "pathgene_rt.cli"]


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[bytes]:
    command = [*COMMAND, *map(os.fsencode, map(str, arguments))]
    return subprocess.run(command, capture_output=True, check=False, timeout=120, **options)


def one_line(done: subprocess.CompletedProcess[bytes], code: int) -> str:
    text = done.stderr.decode()
    assert done.returncode == code, text
    assert text.startswith("error: ")
    assert text.count("\n") == 1
    return text


def patched(body: str, *arguments: str) -> list[str]:
    """The command line whose command `doctor` does ``body`` instead."""
    program = (
        "import sys, typer\nfrom pathgene_rt.cli import main, entry\n"
        "app = typer.Typer()\n@app.callback()\ndef _options(debug: bool = False): pass\n"
        f"@app.command()\ndef doctor():\n    {body}\n"
        f"main.app = app\nsys.argv = {['pathgene-rt', *arguments, 'doctor']!r}\nentry.main()\n"
    )
    return [sys.executable, "-c", program]


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ("{}['key of no use']", 1, "unexpected KeyError: 'key of no use'; please report it"),
        ("raise MemoryError", 5, "out of memory"),
        ("open('/no/such/place')", 2, "/no/such/place: No such file or directory"),
        ("raise RecursionError('two\\nlines')", 1, "unexpected RecursionError: two lines"),
        ("raise ValueError('x' * 5000)", 1, "xxx..."),
        ("raise KeyboardInterrupt", 130, "interrupted"),
        ("sys.exit(6)", 6, ""),
    ],
)
def test_any_exception_is_one_line_and_a_documented_code(body: str, code: int, words: str) -> None:
    done = subprocess.run(patched(body), capture_output=True, check=False, timeout=60)
    if words:
        assert words in one_line(done, code)
    assert done.returncode == code
    shown_all = subprocess.run(patched(body, "--debug"), capture_output=True, check=False)
    assert shown_all.returncode == code
    if words:
        assert b"Traceback" in shown_all.stderr


def lost_output(place: str) -> int:
    """A descriptor that takes nothing: of a full disk, or of a pipe whose reader has gone."""
    if place == "full":
        return os.open("/dev/full", os.O_WRONLY)
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@posix
@pytest.mark.parametrize("place", ["full", "pipe", "closed"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_nobody_reads(tmp_path: Path, place: str, unbuffered: str) -> None:
    bundle = tiny.tiny_bundle(tmp_path / "b.pgrt")
    descriptor = lost_output(place)
    done = subprocess.run(
        [*COMMAND, "inspect", str(bundle), "--json"],
        stdout=descriptor,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        preexec_fn=(lambda: os.close(1)) if place == "closed" else None,
        check=False,
    )
    os.close(descriptor)
    assert "standard output could not be written" in one_line(done, 2)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_a_console_of_another_encoding(tmp_path: Path, encoding: str) -> None:
    bundle = tiny.tiny_bundle(tmp_path / "b.pgrt")
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    named = tmp_path / "组织.svs"
    named.write_bytes(b"no slide")
    done = run("predict", named, "--bundle", bundle, "--out", tmp_path / "o", env=environment)
    assert done.returncode == 3
    assert done.stderr.count(b"\n") <= 4, done.stderr.decode(encoding)
    inspected = run("inspect", bundle, "--json", env=environment)
    assert inspected.returncode == 0, inspected.stderr
    assert json.loads(inspected.stdout.decode(encoding))["name"] == "tiny"


@posix
def test_a_file_name_that_is_no_text(tmp_path: Path) -> None:
    bundle = tiny.tiny_bundle(tmp_path / "b.pgrt")
    named = os.fsencode(tmp_path) + b"/caf\xe9.svs"
    Path(os.fsdecode(named)).write_bytes(b"no slide")
    command = [*COMMAND, "predict", named, "--bundle", bundle, "--out", tmp_path / "o"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=120)
    assert "caf\ufffd.svs" in done.stderr.decode()
    assert done.returncode == 3
    assert done.stderr.count(b"\n") <= 4


def test_escapes_in_names_do_not_reach_the_terminal(tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07\x1b[2Jlung\u202e\n[red]"
    files = tiny.edit_manifest(tiny.tiny_bundle_files(), {"name": evil, "intended_use": evil})
    bundle = tiny.write_files(tmp_path / "b.pgrt", files)
    done = run("inspect", bundle)
    assert done.returncode == 0, done.stderr
    for data in (done.stdout, done.stderr):
        assert b"\x1b]" not in data
        assert b"\x1b[2J" not in data
        assert b"\x07" not in data
    assert "\N{REPLACEMENT CHARACTER}[2Jlung" in done.stdout.decode()


def test_what_is_shown() -> None:
    assert shown("plain") == "plain"
    assert shown("Müller 组织 µm") == "Müller 组织 µm"
    assert shown("a\x1b[31mb\x9bc\ud800d\u202ee\nf\tg") == "a�[31mb�c�d�e�f�g"
    assert shown_lines("a\x1b\nb") == "a�\nb"


def interrupted(command: list[str], ready: bytes, *, after_s: float = 0.0) -> tuple[int, str]:
    """(exit code, stderr) of ``command`` with Ctrl-C once it has printed ``ready``."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        if ready:
            assert process.stdout.readline().strip() == ready
        time.sleep(after_s)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        return process.returncode, errors.decode()


NATIVE = "print('ready', flush=True); import ctypes; "


@posix
@pytest.mark.parametrize(
    "body",
    [
        NATIVE + "[ctypes.CDLL(None).usleep(4_000_000_000) for _ in range(5)]",
        NATIVE + "import threading as t; t.Thread(target=ctypes.CDLL(None).usleep, "
        "args=(4_000_000_000,)).start(); t.Event().wait()",
        NATIVE + "import time; time.sleep(4000)",
    ],
    ids=["native code", "a thread in native code", "Python"],
)
def test_ctrl_c_ends_the_process_whatever_it_does(body: str) -> None:
    code, errors = interrupted(patched(body), b"ready")
    assert code == 130
    assert errors == "error: interrupted; what was finished is kept\n"


@posix
@pytest.mark.parametrize("after_s", [0.25, 0.6])
def test_ctrl_c_in_the_first_moments(tmp_path: Path, after_s: float) -> None:
    """While Python and the commands are being imported. Before our first line Python dies of it
    by itself."""
    bundle = tiny.tiny_bundle(tmp_path / "b.pgrt")
    code, errors = interrupted([*COMMAND, "verify", str(bundle)], b"", after_s=after_s)
    assert code in (130, -signal.SIGINT, 0)
    if code == 130:
        assert errors.count("error: ") == 1
        assert "Traceback" not in errors
