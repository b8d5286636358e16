"""``predict --devices``: what it takes, refuses, and hands on; without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pathgene_rt import EngineOptions, PredictOptions, Pseudonyms
from pathgene_rt.archive.tasks import WorkerSpec
from pathgene_rt.cases import Case
from pathgene_rt.cli import predict_devices
from pathgene_rt.cli.console import Console
from pathgene_rt.cli.predict_devices import Trust, predict_on_devices, read_devices
from pathgene_rt.errors import UsageError
from pathgene_rt.options import Budget
from tests.archive.test_run import DONE
from tests.support import tiny_models as tiny
from tests.support.scripted_pool import ScriptedPool


def test_devices() -> None:
    assert read_devices("all") == ()
    assert read_devices("0,2,11") == ("0", "2", "11")
    for wrong in ("", "0,0", "a", "0-3", "1,"):
        with pytest.raises(UsageError, match="names no GPUs"):
            read_devices(wrong)


def run(tmp_path: Path, options: PredictOptions, engines: EngineOptions) -> None:
    slides = [tmp_path / "a.svs", tmp_path / "b.svs"]
    bundle = tiny.tiny_bundle(tmp_path / "tiny.pgrt")
    cases = [Case("P1", (slides[1],))]
    console = Console(quiet=True)
    out = tmp_path / "out"
    trust = Trust(tmp_path / "here.site.json", "1" * 64, Path("trail.jsonl"), tmp_path / "key.pub")
    predict_on_devices(
        "1,0", slides, cases, out, bundle, options, engines, trust, console, overwrite=False
    )


@pytest.mark.parametrize(
    ("options", "engines", "words"),
    [
        ({"pseudonyms": Pseudonyms.random()}, {}, "--pseudonymize without --pseudonym-key"),
        ({"resume": True}, {}, "--resume does not go"),
        ({}, {"threads": 3}, "--threads does not go"),
        ({}, {"backend": "openvino"}, "uses no GPU"),
    ],
)
def test_what_does_not_go_together(
    tmp_path: Path, options: dict[str, Any], engines: dict[str, Any], words: str
) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    with pytest.raises(UsageError, match=words):
        run(tmp_path, PredictOptions(**options), EngineOptions(**engines))


def test_slides_options_and_cases_reach_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    specs: list[WorkerSpec] = []
    pool = ScriptedPool(lambda *_: DONE)

    def opened(spec: WorkerSpec, devices: tuple[str, ...]) -> ScriptedPool:
        assert devices == ("1", "0")
        specs.append(spec)
        return pool

    monkeypatch.setattr(predict_devices, "RayPool", opened)
    hidden = Pseudonyms(b"0" * 32)
    options = PredictOptions(html=False, budget=Budget(tiles=5), pseudonyms=hidden)
    run(tmp_path, options, EngineOptions(precision="float32"))
    assert sorted(pool.given) == sorted(map(hidden.of, ("P1", "a", "b")))
    assert PredictOptions(**specs[0].predict) == options
    assert specs[0].engine["precision"] == "float32"
    assert specs[0].site == str(tmp_path / "here.site.json") and specs[0].site_sha256 == "1" * 64
    assert specs[0].audit == str(Path("trail.jsonl").absolute())
    assert specs[0].keyring == str(tmp_path / "key.pub")
