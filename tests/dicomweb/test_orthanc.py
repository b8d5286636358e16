"""DICOMweb against a real Orthanc on loopback: slides in, results back, and a server that fails."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("requests", reason="the extra dicomweb is not installed")
pytest.importorskip("highdicom", reason="the extra dicom is not installed")

import pydicom
from typer.testing import CliRunner

from pathgene_rt.cli.main import app
from pathgene_rt.dicomweb import session as session_module
from pathgene_rt.dicomweb.archive import Archive
from pathgene_rt.dicomweb.server import ArchiveError, Server
from pathgene_rt.dicomweb.session import Session
from pathgene_rt.dicomweb.slide import SeriesSlide
from pathgene_rt.dicomweb.work import SeriesResult, SeriesWork
from pathgene_rt.errors import PathGeneError, SlideOpenError
from pathgene_rt.options import EngineOptions, PredictOptions
from pathgene_rt.predictor import Predictor
from tests.support import tiny_models as tiny
from tests.support.dicom_slides import DicomLayout, identify, uid, write_dicom
from tests.support.faulty_proxy import FaultyProxy
from tests.support.orthanc import Orthanc
from tests.support.tools import require_program

pytestmark = pytest.mark.world

OPTIONS = PredictOptions(html=False, heatmaps=False, geojson=False)
PLAIN = Server(url="http://127.0.0.1:1/dicom-web", timeout_s=20, retry_s=20)


def tissue(columns: int = 3, rows: int = 2) -> np.ndarray:
    noise = np.random.default_rng(columns).integers(-15, 15, (rows * 256, columns * 256, 1))
    return (np.array([205, 130, 175]) + noise).astype(np.uint8)


def slide_files(folder: Path, number: int, layout: DicomLayout, pixels: np.ndarray) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    numbered = replace(layout, number=number)
    paths = write_dicom(folder, [pixels, pixels[::2, ::2]], numbered, name=f"slide{number}")
    identify(paths, number)
    return paths


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Predictor]:
    path = tiny.tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny.pgrt")
    with Predictor.open(path, EngineOptions(backend="onnxruntime")) as opened:
        yield opened


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Path]]:
    """Files of slides by their number, in each way that they are stored."""
    folder, pixels = tmp_path_factory.mktemp("slides"), tissue()
    layouts = {
        1: DicomLayout(),
        2: DicomLayout(photometric="YBR_FULL_422"),
        3: DicomLayout(sparse=True, missing=frozenset({1})),
        4: DicomLayout(syntax="explicit"),
        5: DicomLayout(parts=2),
    }
    return {
        number: slide_files(folder / str(number), number, layout, pixels)
        for number, layout in layouts.items()
    }


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, slides: dict[int, list[Path]]
) -> Iterator[Orthanc]:
    with Orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        for paths in slides.values():
            running.store(*paths)
        yield running


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(session_module, "LONGEST_WAIT_S", 0.05)


def work_on(
    url: str, predictor: Predictor, out: Path, number: int = 1, **server: object
) -> SeriesResult:
    """The series of the slide ``number``, found, predicted and stored."""
    with Session(replace(PLAIN, url=url, **server)) as session:
        archive = Archive(session)
        (key,) = archive.find_series({"PatientID": f"MRN-{number}"})
        return SeriesWork(predictor, archive, out, OPTIONS).run(key)


def probabilities(report: object) -> list[tuple[float, ...]]:
    return [one.probabilities for one in report.predictions]


@pytest.mark.parametrize("number", range(1, 6))
def test_frames_of_the_server_give_what_the_files_give(
    predictor: Predictor,
    server: Orthanc,
    slides: dict[int, list[Path]],
    tmp_path: Path,
    number: int,
) -> None:
    result = work_on(server.url, predictor, tmp_path, number)
    if result.error is not None:
        raise result.error
    local = predictor.predict(slides[number][0], replace(OPTIONS, exact=True))
    assert probabilities(result.report) == probabilities(local)
    assert result.report.provenance.tiles == local.provenance.tiles
    assert result.stored == 4


def test_results_are_stored_in_the_slides_study_and_read_back(
    predictor: Predictor, server: Orthanc, tmp_path: Path
) -> None:
    result = work_on(server.url, predictor, tmp_path)
    for name in ("report.dcm", "top_tiles.dcm", "attention_egfr.dcm"):
        local = pydicom.dcmread(result.folder / name)
        (found,) = server.rest("/tools/lookup", local.SOPInstanceUID.encode())
        with_tags = server.rest(f"/instances/{found['ID']}/simplified-tags")
        assert with_tags["StudyInstanceUID"] == uid(1, 8)
        assert with_tags["PatientID"] == "MRN-1"
        assert with_tags["SOPInstanceUID"] == local.SOPInstanceUID


def test_what_is_done_is_done_once(
    predictor: Predictor, server: Orthanc, tmp_path: Path, quick_retries: None
) -> None:
    with FaultyProxy(server.url) as proxy:
        assert work_on(proxy.url, predictor, tmp_path).outcome == "done"
        seen = dict(proxy.seen)
        assert work_on(proxy.url, predictor, tmp_path).outcome == "skipped"
        assert proxy.seen["frames"] == seen["frames"]
        assert proxy.seen["store"] == seen["store"] == 1


def test_other_options_are_not_done_before(
    predictor: Predictor, server: Orthanc, tmp_path: Path
) -> None:
    first = work_on(server.url, predictor, tmp_path)
    with Session(replace(PLAIN, url=server.url)) as session:
        archive = Archive(session)
        (key,) = archive.find_series({"PatientID": "MRN-1"})
        same = SeriesWork(predictor, archive, tmp_path, OPTIONS)
        other = SeriesWork(predictor, archive, tmp_path, replace(OPTIONS, geojson=True))
        assert same.is_done(key)
        assert not other.is_done(key)
        again = other.run(key)
    assert (again.outcome, again.stored) == ("done", 4)
    assert probabilities(again.report) == probabilities(first.report)


def test_each_frame_that_the_grid_touches_comes_once(predictor: Predictor, server: Orthanc) -> None:
    with Session(replace(PLAIN, url=server.url)) as session:
        archive = Archive(session)
        (key,) = archive.find_series({"PatientID": "MRN-1"})
        slide = SeriesSlide(archive, key)
        report = predictor.predict(slide.given(), replace(OPTIONS, exact=True))
        assert slide.frames is not None
        assert set(slide.frames.fetched.values()) == {1}
        assert report.provenance.tiles > 0


FAULTS = ["refuse", "503", "429", "cut", "stall"]


def test_twenty_faults_are_survived_and_the_result_is_that_of_a_quiet_run(
    predictor: Predictor, server: Orthanc, tmp_path: Path, quick_retries: None
) -> None:
    quiet = work_on(server.url, predictor, tmp_path / "quiet")
    before = len(server.instances())
    with FaultyProxy(server.url) as proxy:
        for kind in ("find", "metadata", "frames", "store"):
            proxy.faults[kind] = list(FAULTS)
        result = work_on(proxy.url, predictor, tmp_path / "faults", timeout_s=0.5)
        assert len(proxy.happened) == 20
    if result.error is not None:
        raise result.error
    assert probabilities(result.report) == probabilities(quiet.report)
    assert len(server.instances()) == before + 4


@pytest.mark.parametrize(
    ("kind", "fault", "said"),
    [
        ("find", "401", "401 Unauthorized for /series: it does not know who asks"),
        ("find", "html", "its answer is no JSON"),
        ("find", "redirect", "it sends us to another address"),
        ("metadata", "403", "it does not allow this"),
        ("metadata", "404", "it does not have this"),
        ("frames", "404", "it does not have this"),
        ("frames", "html", "an answer of parts was expected, not text/html"),
        ("frames", "fewer", "frames were asked for"),
    ],
)
def test_what_does_not_pass_is_told_and_leaves_no_result(
    predictor: Predictor, server: Orthanc, tmp_path: Path, kind: str, fault: str, said: str
) -> None:
    with FaultyProxy(server.url) as proxy:
        proxy.faults[kind] = [fault] * 50
        try:
            error = work_on(proxy.url, predictor, tmp_path).error
        except ArchiveError as raised:
            error = raised
    assert isinstance(error, ArchiveError)
    assert said in str(error)
    assert error.exit_code == 3
    assert list(tmp_path.rglob("report.json")) == []


def test_frames_in_another_syntax_than_before_are_not_decoded(
    predictor: Predictor, server: Orthanc, tmp_path: Path
) -> None:
    with FaultyProxy(server.url) as proxy:
        proxy.faults["frames"] = ["", "", "other syntax"]
        error = work_on(proxy.url, predictor, tmp_path).error
    assert "frames came in 1.2.840.10008.1.2.4.90, and before in" in str(error)


def test_a_full_archive_is_told_and_later_only_storing_is_left(
    predictor: Predictor, server: Orthanc, tmp_path: Path
) -> None:
    with FaultyProxy(server.url) as proxy:
        proxy.faults["store"] = ["507"]
        result = work_on(proxy.url, predictor, tmp_path)
        assert "its disk is full" in str(result.error)
        assert (result.folder / "report.json").is_file()
        report = (result.folder / "report.json").read_bytes()
        again = work_on(proxy.url, predictor, tmp_path)
    assert (again.outcome, again.report, again.stored) == ("done", None, 4)
    assert (result.folder / "report.json").read_bytes() == report


def test_a_server_that_is_killed_and_comes_back_costs_nothing(
    predictor: Predictor,
    slides: dict[int, list[Path]],
    tmp_path: Path,
    quick_retries: None,
) -> None:
    with Orthanc(tmp_path / "orthanc") as server:
        server.store(*slides[1])
        quiet = work_on(server.url, predictor, tmp_path / "quiet")
        with FaultyProxy(server.url) as proxy:
            killed = threading.Event()

            def kill(kind: str) -> None:
                if kind == "frames" and not killed.is_set():
                    killed.set()
                    server.kill()
                    threading.Timer(0.5, server.start).start()

            proxy.before = kill
            result = work_on(proxy.url, predictor, tmp_path / "killed")
        assert killed.is_set()
        if result.error is not None:
            raise result.error
        assert probabilities(result.report) == probabilities(quiet.report)


def test_a_server_that_stays_away_is_told(
    predictor: Predictor, slides: dict[int, list[Path]], tmp_path: Path
) -> None:
    with Orthanc(tmp_path / "orthanc") as server:
        server.store(*slides[1])
        with FaultyProxy(server.url) as proxy:
            proxy.before = lambda kind: server.kill() if kind == "frames" else None
            result = work_on(proxy.url, predictor, tmp_path / "out", retry_s=1.0)
    assert isinstance(result.error, ArchiveError)
    assert "it cannot be reached, or broke off; try again later" in str(result.error)
    assert not (result.folder / "report.json").exists()


def test_a_series_that_is_no_slide_fails_alone(
    predictor: Predictor, server: Orthanc, tmp_path: Path
) -> None:
    label = slide_files(tmp_path / "label", 9, DicomLayout(syntax="explicit"), tissue(1, 1))
    for path in label:
        data = pydicom.dcmread(path)
        data.ImageType = ["ORIGINAL", "PRIMARY", "LABEL", "NONE"]
        data.save_as(path)
    server.store(*label)
    result = work_on(server.url, predictor, tmp_path / "out", 9)
    assert isinstance(result.error, SlideOpenError)
    assert "holds no picture of a slide" in str(result.error)


def run(*arguments: object) -> tuple[object, dict]:
    done = CliRunner().invoke(app, ["dicomweb", *map(str, arguments), "--json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit | PathGeneError):
        raise done.exception
    return done.exception, json.loads(done.stdout or "{}")


def test_the_command_does_a_worklist_and_skips_it_the_next_time(
    predictor: Predictor, server: Orthanc, tmp_path: Path
) -> None:
    bundle = tiny.tiny_bundle(tmp_path / "tiny.pgrt")
    worklist = tmp_path / "worklist.txt"
    worklist.write_text("ACC-1\n\nACC-2\n")
    arguments = (server.url, "--bundle", bundle, "--out", tmp_path / "out")
    error, printed = run(*arguments, "--worklist", worklist, "--engine", "onnxruntime")
    assert error is None
    assert [row["status"] for row in printed["slides"]] == ["done", "done"]
    assert [row["stored"] for row in printed["slides"]] == [4, 4]
    error, printed = run(*arguments, "--filter", "PatientID=MRN-2", "--engine", "onnxruntime")
    assert [row["status"] for row in printed["slides"]] == ["skipped, already done"]


def test_polling_takes_what_is_new_until_it_is_stopped(
    slides: dict[int, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tiny.tiny_bundle(tmp_path / "tiny.pgrt")
    rounds: list[int] = []
    with Orthanc(tmp_path / "orthanc") as server:
        server.store(*slides[1])

        def between(seconds: float, sleep: Callable[[float], None] = time.sleep) -> None:
            if seconds != 7:  # somebody else waits
                return sleep(seconds)
            rounds.append(len(list((tmp_path / "out").rglob("stored.json"))))
            if len(rounds) == 3:
                raise KeyboardInterrupt
            server.store(*slides[len(rounds) + 1])

        monkeypatch.setattr("pathgene_rt.cli.dicomweb.time.sleep", between)
        arguments = (server.url, "--bundle", bundle, "--out", tmp_path / "out", "--poll", 7)
        command = ["dicomweb", *map(str, arguments), "--engine", "onnxruntime", "--quiet"]
        CliRunner().invoke(app, command)
    assert rounds == [1, 2, 3]


def made_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate of this machine, and it with its key."""
    openssl = require_program("openssl", "openssl")
    own, key, both = (folder / f"{name}-{what}.pem" for what in ("own", "key", "both"))
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", key, "-out", own),
        ],
        check=True,
        capture_output=True,
    )
    both.write_bytes(key.read_bytes() + own.read_bytes())
    return own, both


def found(server: Server) -> int:
    with Session(server) as session:
        return len(list(Archive(session).find_series({"PatientID": "MRN-1"})))


def test_certificates_are_verified_and_the_token_is_sent(server: Orthanc, tmp_path: Path) -> None:
    own, both = made_certificate(tmp_path, "server")
    token = tmp_path / "token"
    token.write_text("abc.def\n")
    with FaultyProxy(server.url, certificate=both) as proxy:
        with pytest.raises(ArchiveError, match="its certificate is not trusted"):
            found(Server.of(proxy.url, retry_s=0))
        assert proxy.authorization == []
        assert found(Server.of(proxy.url, ca=own, token_file=token, retry_s=0)) == 1
        assert proxy.authorization == ["Bearer abc.def"]


def test_our_own_certificate_is_shown(server: Orthanc, tmp_path: Path) -> None:
    own, both = made_certificate(tmp_path, "server")
    ours, ours_with_key = made_certificate(tmp_path, "ours")
    with FaultyProxy(server.url, certificate=both, asks_for=ours) as proxy:
        with pytest.raises(ArchiveError):
            found(Server.of(proxy.url, ca=own, retry_s=0))
        assert found(Server.of(proxy.url, ca=own, certificate=ours_with_key, retry_s=0)) == 1
