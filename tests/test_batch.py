"""Many slides from Python: skipped, failed and done; failures of others' code; cases; stopping."""

from __future__ import annotations

import errno
import gc
import json
import os
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tifffile import TiffPage

from pathgene_rt import CancellationToken, EngineOptions, PredictOptions, Predictor, Pseudonyms
from pathgene_rt.batch import CaseResult, SlideResult, attempt, keep_ids
from pathgene_rt.cases import Case
from pathgene_rt.errors import (
    BatchError,
    BundleError,
    CancelledError,
    EngineError,
    FileAccessError,
    NoTissueError,
    OutputError,
    PathGeneError,
    SlideError,
    SlideOpenError,
    SlideReadError,
    UsageError,
)
from pathgene_rt.locks import sole_writer
from pathgene_rt.options import Budget
from pathgene_rt.report.report import Report
from pathgene_rt.slide_ids import TABLE_FILE, read_table, write_table
from pathgene_rt.streaming.batcher import Batch
from pathgene_rt.training.synthetic.slides import write_slide
from tests.support import tiny_models as tiny

QUICK = PredictOptions(heatmaps=False, geojson=False)


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("slides")
    for seed, name in enumerate("abc"):
        write_slide(folder / f"{name}.svs", (768, 768), seed=seed)
    return [folder / f"{name}.svs" for name in "abc"]


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Predictor]:
    bundle = tiny.tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny.pgrt")
    with Predictor.open(bundle, EngineOptions(backend="onnxruntime")) as opened:
        yield opened


def outcomes(results: Iterator[SlideResult | CaseResult]) -> dict[str, str]:
    return {result.name: result.outcome for result in results}


def failing(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException
) -> None:
    """Predicting the slide ``name`` raises ``error``."""
    predict = predictor.predict

    def chosen(slide: Path, *given, **named) -> Report:
        if slide.name == name:
            raise error
        return predict(slide, *given, **named)

    monkeypatch.setattr(predictor, "predict", chosen)


def test_slides_are_done_then_skipped(
    predictor: Predictor, slides: list[Path], tmp_path: Path
) -> None:
    results = list(predictor.predict_many(slides, tmp_path, QUICK))
    for result, slide in zip(results, slides, strict=True):
        assert isinstance(result, SlideResult) and result.error is None
        assert (result.slide, result.name, result.outcome) == (slide, slide.name, "done")
        assert result.folder == tmp_path / slide.stem
        assert result.report is not None
        document = json.loads((result.folder / "report.json").read_text())
        assert document == json.loads(json.dumps(result.report.to_dict()))
    again = list(predictor.predict_many(slides, tmp_path, QUICK))
    assert [(one.outcome, one.report) for one in again] == [("skipped", None)] * 3
    (tmp_path / "b" / "report.json").unlink()
    assert outcomes(predictor.predict_many(slides, tmp_path, QUICK)) == {
        "a.svs": "skipped",
        "b.svs": "done",
        "c.svs": "skipped",
    }
    renewed = predictor.predict_many(slides, tmp_path, QUICK, overwrite=True)
    assert set(outcomes(renewed).values()) == {"done"}


def test_work_is_done_as_results_are_asked_for(
    predictor: Predictor, slides: list[Path], tmp_path: Path
) -> None:
    results = predictor.predict_many(slides, tmp_path, QUICK)
    assert list(tmp_path.iterdir()) == []
    assert next(results).name == "a.svs"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (NoTissueError("b: no tissue"), NoTissueError),
        (EngineError("b: the GPU is gone"), EngineError),
        (KeyError("resolution"), SlideError),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), SlideError),
        (RecursionError("maximum recursion depth exceeded"), SlideError),
        (OSError(5, "Input/output error"), SlideReadError),
        (MemoryError(), EngineError),
    ],
)
def test_whatever_a_slide_fails_of_stops_no_other(
    predictor: Predictor,
    slides: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    raised: Exception,
    kind: type[PathGeneError],
) -> None:
    failing(predictor, monkeypatch, "b.svs", raised)
    cases = [Case("P1", (slides[0], slides[1])), Case("P2", (slides[2],))]
    results = list(predictor.predict_many(slides, tmp_path, QUICK, cases=cases))
    assert outcomes(iter(results)) == {
        "a.svs": "done",
        "b.svs": "failed",
        "c.svs": "done",
        "P1": "failed",
        "P2": "done",
    }
    error = results[1].error
    assert type(error) is kind and "\n" not in str(error)
    assert error is raised or error.__cause__ is raised
    lost = results[3].error
    assert isinstance(lost, BatchError) and "because b.svs failed" in str(lost)


def full_disk() -> OutputError:
    error = OutputError("cannot write it")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    return error


@pytest.mark.parametrize("raised", [full_disk(), BundleError("damaged"), KeyboardInterrupt()])
def test_what_concerns_every_slide_ends_the_batch(
    predictor: Predictor,
    slides: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    raised: BaseException,
) -> None:
    failing(predictor, monkeypatch, "b.svs", raised)
    results = predictor.predict_many(slides, tmp_path, QUICK)
    assert next(results).outcome == "done"
    with pytest.raises(type(raised)):
        next(results)
    assert (tmp_path / "a" / "report.json").exists()
    assert not (tmp_path / "c").exists()


def test_a_place_that_cannot_be_written_is_that_slides_alone(
    predictor: Predictor, slides: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "b").write_text("somebody's file")
    results = list(predictor.predict_many(slides, tmp_path, QUICK))
    assert [result.outcome for result in results] == ["done", "failed", "done"]
    assert isinstance(results[1].error, OutputError)
    assert (tmp_path / "b").read_text() == "somebody's file"


def test_two_runs_into_one_folder_keep_each_others_ids(tmp_path: Path) -> None:
    """The second waits for the first's lock, and knows then what the first has written."""
    first = {Path("w/case.svs"): "case", Path("x/case.svs"): "case~x"}
    kept: dict[Path, str] = {}
    slides = [Path("y/case.svs"), Path("z/case.svs")]
    second = threading.Thread(target=lambda: kept.update(keep_ids(slides, tmp_path)))
    with sole_writer(tmp_path / TABLE_FILE):
        second.start()
        write_table(tmp_path, first)
    second.join()
    assert set(read_table(tmp_path).values()) == {"case", "case~x", "case~y", "case~z"}
    assert list(kept.values()) == ["case~y", "case~z"]
    assert [path.name for path in tmp_path.iterdir()] == [TABLE_FILE]


def test_a_slide_that_is_none(predictor: Predictor, slides: list[Path], tmp_path: Path) -> None:
    given = [tmp_path / "gone.svs", slides[0]]
    first, second = predictor.predict_many(given, tmp_path / "out", QUICK)
    assert isinstance(first.error, SlideOpenError) and second.outcome == "done"


def test_cases_are_done_skipped_and_renewed(
    predictor: Predictor, slides: list[Path], tmp_path: Path
) -> None:
    cases = [Case("P1", tuple(slides[:2]))]
    notes: list[str] = []
    assert outcomes(predictor.predict_many(slides, tmp_path, QUICK)) == dict.fromkeys(
        ("a.svs", "b.svs", "c.svs"), "done"
    )
    *_, case = predictor.predict_many(slides, tmp_path, QUICK, cases=cases, note=notes.append)
    assert isinstance(case, CaseResult) and case.report is not None
    assert (case.name, case.outcome, case.folder) == ("P1", "done", tmp_path / "cases" / "P1")
    assert [len(both.slides) for both in case.report.predictions] == [2] * len(
        case.report.predictions
    )
    assert notes == [
        f"{name}.svs: done before without features; encoding it again for them" for name in "ab"
    ]
    again = predictor.predict_many(slides, tmp_path, QUICK, cases=cases)
    assert set(outcomes(again).values()) == {"skipped"}


def test_another_file_or_other_options_are_not_done_before(
    predictor: Predictor, slides: list[Path], tmp_path: Path
) -> None:
    slide, out = tmp_path / "s.svs", tmp_path / "out"
    shutil.copy2(slides[0], slide)

    def run(**changes: Any) -> tuple[str, str]:
        notes: list[str] = []
        options = replace(QUICK, html=False, **changes)
        (result,) = predictor.predict_many([slide], out, options, note=notes.append)
        return result.outcome, " ".join(notes)

    assert run() == ("done", "")
    assert run() == ("skipped", "")
    outcome, said = run(mpp_override=0.51)
    assert outcome == "done" and "--mpp-override differ" in said
    assert run(mpp_override=0.51) == ("skipped", "")
    outcome, said = run(mpp_override=0.51, heatmaps=True)
    assert outcome == "done" and "--heatmaps differ" in said
    assert run(mpp_override=0.51) == ("skipped", ""), "it has more than is asked for"
    write_slide(slide, (768, 768), seed=7)
    outcome, said = run(mpp_override=0.51)
    assert outcome == "done" and "the slide differ" in said
    os.utime(slide, ns=(9, 9))
    outcome, said = run(mpp_override=0.51)
    assert outcome == "skipped" and "another time than before" in said


def test_features_that_rotted_are_made_again_where_they_are_needed(
    predictor: Predictor, slides: list[Path], tmp_path: Path
) -> None:
    options = replace(QUICK, html=False, features=True)
    assert outcomes(predictor.predict_many(slides[:1], tmp_path, options)) == {"a.svs": "done"}
    features = tmp_path / "a" / "features.h5"
    whole = features.read_bytes()
    features.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
    without = replace(options, features=False)
    assert outcomes(predictor.predict_many(slides[:1], tmp_path, without)) == {"a.svs": "skipped"}
    notes: list[str] = []
    again = predictor.predict_many(slides[:1], tmp_path, options, note=notes.append)
    assert outcomes(again) == {"a.svs": "done"} and "its features are damaged" in notes[0]
    assert features.read_bytes() == whole


def test_a_folder_that_another_writes_is_left_to_it(
    predictor: Predictor, slides: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    with sole_writer(tmp_path / "a"):
        first, second = predictor.predict_many(slides[:2], tmp_path, QUICK)
    assert isinstance(first.error, FileAccessError) and second.outcome == "done"
    assert outcomes(predictor.predict_many(slides[:1], tmp_path, QUICK)) == {"a.svs": "done"}
    assert not (tmp_path / "a" / ".lock").exists()


def test_progress_names_what_is_under_way(
    predictor: Predictor, slides: list[Path], tmp_path: Path
) -> None:
    heard: list[tuple[str, int, int | None]] = []
    results = list(
        predictor.predict_many(
            slides[:2],
            tmp_path,
            QUICK,
            cases=[Case("P1", (slides[0],))],
            progress=lambda *told: heard.append(told),
        )
    )
    assert list(dict.fromkeys(name for name, _, _ in heard)) == ["a.svs", "b.svs", "P1"]
    for result in results[:2]:
        told = [(done, total) for name, done, total in heard if name == result.name]
        assert isinstance(result.report, Report)
        tiles = result.report.provenance.tiles
        assert told[0] == (0, None) and told[-1] == (tiles, tiles)


def test_a_token_ends_the_batch_and_keeps_what_is_finished(
    predictor: Predictor, slides: list[Path], tmp_path: Path
) -> None:
    token = CancellationToken()
    results = predictor.predict_many(slides, tmp_path, QUICK, token=token)
    assert next(results).outcome == "done"
    token.cancel()
    with pytest.raises(CancelledError):
        next(results)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_slide_that_fails_does_not_cancel_the_batchs_token(
    predictor: Predictor, slides: list[Path], tmp_path: Path
) -> None:
    token = CancellationToken()
    given = [tmp_path / "gone.svs", *slides[:1]]
    results = predictor.predict_many(given, tmp_path / "out", QUICK, token=token)
    assert [result.outcome for result in results] == ["failed", "done"]
    assert not token.cancelled


def test_a_batchs_token_keeps_nothing_of_its_slides() -> None:
    token = CancellationToken()
    child, woken = token.child(), []
    child.on_cancel(lambda: woken.append("child"))
    gone = weakref.ref(token.child())
    gc.collect()
    assert gone() is None
    token.cancel()
    assert child.cancelled and woken == ["child"]


def test_a_slide_leaves_no_pixels_to_the_collection_of_garbage(
    predictor: Predictor, slides: list[Path], tmp_path: Path
) -> None:
    """Cycles would: they stay until there is a quarter more of everything in the process."""
    damaged = tmp_path / "damaged.svs"
    damaged.write_bytes(slides[1].read_bytes()[:20_000])

    def predict() -> list[str]:
        results = predictor.predict_many([slides[0], damaged], tmp_path, QUICK, overwrite=True)
        return [result.outcome for result in results]

    assert predict() == ["done", "failed"]  # what is made once a process is made
    gc.collect()
    gc.disable()
    try:
        predict()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = list(gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not [one for one in left if isinstance(one, np.ndarray | Batch | Report | TiffPage)]


def test_under_pseudonyms_results_do_not_name_slides(
    predictor: Predictor, slides: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for slide, name in zip(slides, ("Doe-1", "Doe-2"), strict=False):
        (tmp_path / f"{name}.svs").write_bytes(slide.read_bytes())
    given = [tmp_path / f"{name}.svs" for name in ("Doe-1", "Doe-2")]
    pseudonyms = Pseudonyms(bytes(range(32)))
    options = PredictOptions(heatmaps=False, geojson=False, pseudonyms=pseudonyms)
    failing(predictor, monkeypatch, "Doe-2.svs", KeyError(str(given[1])))
    cases = [Case("Doe", tuple(given))]
    results = list(predictor.predict_many(given, tmp_path / "out", options, cases=cases))
    assert [result.outcome for result in results] == ["done", "failed", "failed"]
    assert [result.name for result in results] == [
        pseudonyms.of(name) for name in ("Doe-1", "Doe-2", "Doe")
    ]
    for result in results:
        assert "Doe" not in f"{result.folder.relative_to(tmp_path)} {result.error}"
    assert results[1].error is not None and results[1].error.__cause__ is None
    given[0].unlink()  # whether it is done can no longer be told
    (gone,) = predictor.predict_many(given[:1], tmp_path / "out", options)
    assert isinstance(gone.error, SlideError) and "Doe" not in str(gone.error)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _: {"options": PredictOptions(coords=Path("c.h5"))}, "one file for . slides"),
        (lambda slides: {"cases": [Case("P1", (Path("d.svs"),))]}, "has the slide d.svs"),
        (
            lambda slides: {
                "cases": [Case("P1", tuple(slides))],
                "options": PredictOptions(budget=Budget(tiles=5)),
            },
            "cases need whole slides",
        ),
        (
            lambda slides: {"options": PredictOptions(resume=True, pseudonyms=Pseudonyms.random())},
            "cannot be resumed under random pseudonyms",
        ),
    ],
)
def test_batches_that_make_no_sense(
    predictor: Predictor,
    slides: list[Path],
    tmp_path: Path,
    change: Callable[[list[Path]], dict],
    words: str,
) -> None:
    given = {"slides": slides, "out": tmp_path / "out", **change(slides)}
    with pytest.raises(UsageError, match=words):
        predictor.predict_many(**given)
    assert not (tmp_path / "out").exists()


def test_an_attempt_gives_the_value_or_the_failure() -> None:
    assert attempt(lambda: 7, "a") == 7
    failure = attempt(lambda: {}["missing"], "a")
    assert isinstance(failure, SlideError) and "a: cannot be predicted (KeyError" in str(failure)
