"""A watched folder: what is whole, who takes it, and what becomes of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pathgene_rt.cancellation import CancellationToken
from pathgene_rt.cli.main import app
from pathgene_rt.errors import FileAccessError, OutputError, SlideReadError, UsageError
from pathgene_rt.locks import sole_writer
from pathgene_rt.options import EngineOptions, PredictOptions
from pathgene_rt.predictor import Predictor
from pathgene_rt.pseudonyms import Pseudonyms
from pathgene_rt.training.synthetic.slides import write_slide
from pathgene_rt.watch.hooks import parse_command
from pathgene_rt.watch.service import ServiceNotifier
from pathgene_rt.watch.settings import WatchSettings
from pathgene_rt.watch.status import watch_status
from pathgene_rt.watch.watcher import Watcher
from tests.support import tiny_models as tiny

PLAIN = PredictOptions(heatmaps=False, geojson=False, html=False)
NOW = WatchSettings(settle_s=0, poll_s=0.01, min_free_bytes=0, give_up_s=0)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "s.svs"
    write_slide(path, (512, 512), seed=0)
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny.pgrt")


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> Iterator[Predictor]:
    engine = EngineOptions(backend="onnxruntime", cache_dir=None)
    with Predictor.open(bundle, engine) as predictor:
        yield predictor


class Site:
    """An inbox, the folder of results, and what was logged."""

    def __init__(self, folder: Path, predictor: Predictor, slide: Path) -> None:
        self.inbox, self.out = folder / "inbox", folder / "out"
        self.inbox.mkdir()
        self.predictor, self.slide = predictor, slide
        self.lines: list[dict[str, Any]] = []

    def put(self, name: str) -> Path:
        target = self.inbox / name
        target.parent.mkdir(exist_ok=True)
        shutil.copy(self.slide, target)
        return target

    def watcher(self, options: PredictOptions = PLAIN, **settings: Any) -> Watcher:
        chosen = WatchSettings(**{**vars(NOW), **settings})
        return Watcher(self.predictor, self.inbox, self.out, options, chosen, log=self.log)

    def log(self, event: str, **facts: Any) -> None:
        self.lines.append({"event": event, **facts})

    def events(self, *names: str) -> list[tuple[str, str]]:
        return [(one["event"], one.get("slide", "")) for one in self.lines if one["event"] in names]

    def reports(self) -> list[str]:
        return sorted(path.parent.name for path in self.out.glob("*/report.json"))


@pytest.fixture
def site(tmp_path: Path, predictor: Predictor, slide: Path) -> Site:
    return Site(tmp_path, predictor, slide)


def all_of(watcher: Watcher) -> None:
    token = CancellationToken()
    while watcher.turn(token):
        pass


def test_each_slide_is_done_once_in_the_order_asked_for(site: Site, tmp_path: Path) -> None:
    for number, name in enumerate(("b.svs", "a.svs", "stat-7.svs")):
        os.utime(site.put(name), (1000 + number, 1000 + number))
    (tmp_path / "first").write_text("# urgent\n\nstat-*\n")
    watcher = site.watcher(priority=tmp_path / "first")
    all_of(watcher)
    done = [("done", name) for name in ("stat-7.svs", "b.svs", "a.svs")]
    assert site.events("done", "skipped") == done
    assert site.reports() == ["a", "b", "stat-7"]
    before = {path: path.stat().st_mtime_ns for path in site.out.glob("*/report.json")}
    all_of(site.watcher())  # as another process does later
    assert site.events("done", "skipped") == done
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert watch_status(site.out)["counts"] == {"done": 3}
    (site.out / "a" / "report.json").unlink()
    os.utime(site.inbox / "a.svs", (5000, 5000))
    all_of(watcher)
    assert site.events("done")[3:] == [("done", "a.svs")]


def test_names_that_are_alike_get_results_of_their_own(site: Site) -> None:
    for name in ("a.svs", "x/a.svs", "y/a.svs", "y/A.svs", "failed.svs"):
        site.put(name)
    watcher = site.watcher(recursive=True)
    all_of(watcher)
    assert len(site.reports()) == 5 and {"failed"}.isdisjoint(site.reports())
    assert watch_status(site.out)["counts"] == {"done": 5}


def test_a_slide_that_is_still_being_copied_is_never_opened(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copier writes a piece whenever the watcher has looked, twice as long as is waited."""
    data, target = site.slide.read_bytes(), site.inbox / "slow.svs"
    opened: list[int] = []
    real = Path.open

    def noted(path: Path, *arguments: Any, **more: Any) -> Any:
        if path.name == target.name:
            opened.append(path.stat().st_size)
        return real(path, *arguments, **more)

    watcher = site.watcher(settle_s=60)
    clock = [0.0]
    monkeypatch.setattr(watcher._inbox._arrivals, "_clock", lambda: clock[0])
    token = CancellationToken()
    monkeypatch.setattr(Path, "open", noted)
    pieces = 40
    for end in range(len(data) // pieces, len(data) + 1, len(data) // pieces):
        with real(target, "ab") as file:
            file.write(data[file.tell() : end])
        for _ in range(2):
            assert not watcher.turn(token)
            clock[0] += 29
    with real(target, "ab") as file:
        file.write(data[file.tell() :])
    assert opened == []
    for _ in range(4):
        watcher.turn(token)
        clock[0] += 29
    assert set(opened) == {len(data)}
    assert site.reports() == ["slow"]


def test_a_copy_that_pauses_for_long_is_tried_until_it_is_whole(site: Site) -> None:
    target = site.put("half.svs")
    data = target.read_bytes()
    target.write_bytes(data[: len(data) // 2])
    watcher = site.watcher(give_up_s=3600)
    all_of(watcher)
    assert [one["event"] for one in site.lines if one["event"] != "begun"] == ["retry"]
    (entry,) = watch_status(site.out)["retry"]
    assert entry["tries"] == 1 and entry["next_try"] > time.time()
    target.write_bytes(data)
    all_of(watcher)
    assert site.reports() == ["half"]


def test_a_slide_that_changes_while_it_is_predicted_is_done_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = site.put("s.svs")
    real, calls = site.predictor.predict, []

    def predict(slide: Path, *arguments: Any, **more: Any) -> Any:
        report = real(slide, *arguments, **more)
        calls.append(report)
        if len(calls) == 1:
            os.utime(target, (7000, 7000))
        return report

    monkeypatch.setattr(site.predictor, "predict", predict)
    all_of(site.watcher())
    assert len(calls) == 2
    assert site.events("changed", "done") == [("changed", "s.svs"), ("done", "s.svs")]


def test_companions_must_be_there(site: Site) -> None:
    from pathgene_rt.watch.arrivals import look_at
    from pathgene_rt.watch.parts import SlideParts

    mirax = site.inbox / "m.mrxs"
    mirax.write_bytes(b"x")
    folder = site.inbox / "m"
    assert look_at(mirax, SlideParts()) is None
    folder.mkdir()
    (folder / "Slidedat.ini").write_text(
        "\ufeff[HIERARCHICAL]\nINDEXFILE = Index.dat\n"
        "[DATAFILE]\nFILE_COUNT = 2\nFILE_0 = Data0000.dat\nFILE_1 = Data0001.dat\n",
        encoding="utf-8",
    )
    for name in ("Index.dat", "Data0000.dat", "Data0001.dat"):
        assert look_at(mirax, SlideParts()) is None
        (folder / name).write_bytes(b"x")
    before = look_at(mirax, SlideParts())
    assert before is not None
    (folder / "Data0001.dat").write_bytes(b"xx")
    after = look_at(mirax, SlideParts())
    assert after is not None and after.signature != before.signature
    vms = site.inbox / "h.vms"
    vms.write_bytes(b"[Virtual Microscope Specimen]\r\nImageFile=h.jpg\r\nMapFile=h_map.jpg\r\n")
    for name in ("h.jpg", "h_map.jpg"):
        assert look_at(vms, SlideParts()) is None
        (site.inbox / name).write_bytes(b"x")
    assert look_at(vms, SlideParts()) is not None


def test_a_dicom_series_stands_still_as_one(tmp_path: Path) -> None:
    from pathgene_rt.watch.arrivals import Arrivals, look_at
    from pathgene_rt.watch.parts import SlideParts
    from tests.support.dicom_files import write_header

    files = [write_header(tmp_path / f"{number}.dcm", "1.2.3") for number in range(3)]
    clock = [0.0]
    arrivals = Arrivals(60, lambda: clock[0])

    def settled() -> bool:
        arrived = look_at(files[0], SlideParts())
        assert arrived is not None
        return bool(arrivals.settled([arrived]))

    last = files[-1].read_bytes()
    files[-1].unlink()
    assert not settled()
    clock[0] += 59
    files[-1].write_bytes(last)
    assert not settled()
    clock[0] += 59
    assert not settled()
    clock[0] += 1
    assert settled()


def test_what_another_watcher_has_is_left_to_it(site: Site) -> None:
    site.put("a.svs")
    site.put("b.svs")
    watcher = site.watcher()
    with sole_writer(site.out / ".claims" / "a"):
        all_of(watcher)
        assert site.reports() == ["b"]
    all_of(watcher)
    assert site.reports() == ["a", "b"]


def test_what_killed_watchers_left_of_their_claims_is_removed(site: Site) -> None:
    left = site.out / ".claims" / ".a.lock"
    watcher = site.watcher()
    left.touch()
    token = CancellationToken()
    token.cancel()
    watcher.run(token)
    assert not left.exists()


def test_three_watchers_do_each_slide_once(site: Site) -> None:
    names = [f"s{number}" for number in range(9)]
    for name in names:
        site.put(f"{name}.svs")
    threads = [threading.Thread(target=all_of, args=(site.watcher(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    all_of(site.watcher())
    assert sorted(name for _, name in site.events("done", "skipped")) == [
        f"{name}.svs" for name in names
    ]


def test_what_cannot_pass_fails_with_its_reason_and_may_be_tried_again(site: Site) -> None:
    empty = site.inbox / "bad.svs"
    empty.write_bytes(b"not a slide at all")
    site.put("good.svs")
    (site.out / "failed").mkdir(parents=True)
    for name in ("bad", "good"):
        (site.out / "failed" / f".{name}.json.0123abcd.part").touch()  # by one that was killed
    watcher = site.watcher()
    all_of(watcher)
    assert [path.name for path in (site.out / "failed").iterdir()] == ["bad.json"]
    reason = json.loads((site.out / "failed" / "bad.json").read_text())
    assert reason["slide"] == "bad.svs" and reason["exit_code"] == 3
    assert "not a slide" in reason["reason"]
    assert site.reports() == ["good"]
    assert not (site.out / "bad").exists(), "nothing was written there"
    assert not watcher.turn(CancellationToken())
    (site.out / "failed" / "bad.json").unlink()
    shutil.copy(site.slide, empty)
    all_of(watcher)
    assert site.reports() == ["bad", "good"]
    assert list((site.out / "failed").iterdir()) == []


def test_what_may_pass_is_tried_again_later_and_later(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.put("s.svs")
    real, clock = site.predictor.predict, [time.time()]
    errors: list[Exception] = [
        FileAccessError("s.svs: another program has it"),
        SlideReadError("s: no read ended for 60 s"),
        FileAccessError("s.svs: the share is away"),
    ]

    def predict(*arguments: Any, **more: Any) -> Any:
        if errors:
            raise errors.pop(0)
        return real(*arguments, **more)

    monkeypatch.setattr(site.predictor, "predict", predict)
    monkeypatch.setattr("pathgene_rt.watch.watcher.time.time", lambda: clock[0])
    watcher = site.watcher(give_up_s=3600)
    waits = []
    while not site.reports():
        all_of(watcher)
        if retries := watch_status(site.out)["retry"]:
            waits.append(retries[0]["next_try"] - clock[0])
            clock[0] = retries[0]["next_try"]
    assert waits == pytest.approx([5, 10, 20])
    assert watch_status(site.out)["counts"] == {"done": 1}


def test_folders_that_are_away_and_a_full_disk_pause_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher, token = site.watcher(), CancellationToken()
    away = site.inbox.rename(site.inbox.with_name("away"))
    for _ in range(3):
        assert not watcher.turn(token)
    away.rename(site.inbox)
    site.put("s.svs")
    low = site.watcher(min_free_bytes=1 << 60)
    for _ in range(3):
        assert not low.turn(token)
    assert [one["event"] for one in site.lines] == ["paused", "paused"]
    assert "GB are free" in site.lines[-1]["reason"]
    site.lines.clear()
    real = site.predictor.predict

    def full(*_: Any, **__: Any) -> Any:
        error = OutputError("cannot write: No space left on device")
        error.__cause__ = OSError(28, "No space left on device")
        raise error

    monkeypatch.setattr(site.predictor, "predict", full)
    for _ in range(3):
        assert not watcher.turn(token)
    assert site.events("failed", "retry") == []
    monkeypatch.setattr(site.predictor, "predict", real)
    all_of(watcher)
    assert site.reports() == ["s"]
    assert [one["event"] for one in site.lines if one["event"] in ("paused", "goes on")] == [
        "goes on",
        "paused",
        "goes on",
    ]


def test_no_pseudonymous_output_names_a_slide(site: Site) -> None:
    hidden = Pseudonyms(bytes(32))
    site.put("Doe.svs")
    (site.inbox / "Roe.svs").write_bytes(b"not a slide at all")
    all_of(site.watcher(PredictOptions(html=False, heatmaps=False, pseudonyms=hidden)))
    assert site.reports() == [hidden.of("Doe")]
    names = [str(path.relative_to(site.out)) for path in site.out.rglob("*")]
    texts = [path.read_bytes() for path in site.out.rglob("*") if path.is_file()]
    texts += ["".join(names).encode(), json.dumps(site.lines).encode()]
    for secret in (b"Doe", b"Roe"):
        assert not any(secret in text for text in texts)
    with pytest.raises(UsageError, match="pseudonym-key"):
        site.watcher(PredictOptions(pseudonyms=Pseudonyms.random()))


_HOOK = "import sys, pathlib; path = pathlib.Path(sys.argv[-1]); "
_HOOK += "open(sys.argv[1], 'a').write(path.name + ' ' + sys.argv[2] + chr(10)); "
_HOOK += "sys.exit(path.name == 'bad')"


def test_the_command_for_what_is_done_sees_no_shell(site: Site, tmp_path: Path) -> None:
    site.put("a.svs")
    told = tmp_path / "told"
    command = parse_command(f'"{sys.executable}" -c "{_HOOK}" {told} "$HOME; echo"')
    watcher = site.watcher(on_done=command)
    all_of(watcher)
    watcher.turn(CancellationToken())
    assert told.read_text() == "a $HOME; echo\n"
    site.put("bad.svs")
    all_of(watcher)
    watcher.turn(CancellationToken())
    assert site.events("on-done", "on-done failed") == [("on-done", "a"), ("on-done failed", "bad")]
    assert watch_status(site.out)["hooks_due"] == 1
    for text, said in (("", "empty"), ("'x", "quotes"), ("no-such-program-7", "no program")):
        with pytest.raises(UsageError, match=said):
            parse_command(text)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="systemd is Linux'")
def test_systemd_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        server.settimeout(10)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000"}
        with ServiceNotifier(environment) as service:
            service.ready()
            service.status("predicting\ns")
            service.stopping()
            said = {server.recv(100) for _ in range(4)}
    assert said == {b"READY=1", b"STATUS=predicting s", b"STOPPING=1", b"WATCHDOG=1"}
    silent = ServiceNotifier({"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"})
    assert silent.watchdog_s == 0
    silent.ready()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM")
def test_the_command_runs_until_sigterm_and_tells_its_state(
    tmp_path: Path, slide: Path, bundle: Path
) -> None:
    inbox, out = tmp_path / "inbox", tmp_path / "out"
    inbox.mkdir()
    shutil.copy(slide, inbox / "s.svs")
    command = [sys.executable, "-m", "pathgene_rt.cli", "watch", str(inbox), "--out", str(out)]
    command += ["--bundle", str(bundle), "--engine", "onnxruntime", "--settle", "0"]
    command += ["--poll", "0.05", "--no-html", "--no-heatmaps", "--min-free", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(json.loads(line))
            if lines[-1]["event"] == "done":
                break
        shown = CliRunner().invoke(app, ["watch", "status", str(out), "--json"])
        process.send_signal(signal.SIGTERM)
        lines += [json.loads(line) for line in process.stdout]
        assert process.wait(60) == 0
    assert [one["event"] for one in lines if one["event"] != "engine"] == [
        "started",
        "begun",
        "done",
        "stopped",
    ]
    assert json.loads(shown.stdout)["counts"] == {"done": 1}
    assert len(json.loads(shown.stdout)["watchers"]) == 1
    table = CliRunner().invoke(app, ["watch", "status", str(out)])
    assert table.stdout.startswith("1 done") and watch_status(out)["watchers"] == []


_SLOW_TO_OPEN = """
import ctypes
from pathgene_rt.predictor import Predictor
def open(*_, **__):
    print("opening", flush=True)
    ctypes.PyDLL(None).sleep(100)  # as an engine that compiles: no Python runs meanwhile
Predictor.open = open
from pathgene_rt.cli.entry import main
main()
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM")
def test_it_ends_at_once_while_its_engines_compile(tmp_path: Path, bundle: Path) -> None:
    arguments = ["watch", str(tmp_path), "--out", str(tmp_path / "out"), "--bundle", str(bundle)]
    command = [sys.executable, "-c", _SLOW_TO_OPEN, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "opening\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(50) == -signal.SIGTERM


def test_settings_that_make_no_sense(site: Site, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--settle"):
        WatchSettings(settle_s=-1)
    with pytest.raises(UsageError, match="among the slides"):
        Watcher(site.predictor, site.inbox, site.inbox)
    with pytest.raises(UsageError, match="nothing was ever watched"):
        watch_status(tmp_path)
