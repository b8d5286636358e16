"""What the server answers: results, slides, and requests that mean no good."""

from __future__ import annotations

import io
import json
import os
import random
import re
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urljoin

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from pathgene_rt.slides import open_slide
from pathgene_rt.slides.fingerprint import SlideFingerprint
from pathgene_rt.view.app import View, make_app
from pathgene_rt.view.guard import Guard
from pathgene_rt.view.results import ResultFolder
from pathgene_rt.view.slide_files import SlideFolders
from pathgene_rt.view.slide_workers import SlideWorkers
from tests.support.view_results import (
    SIZE_PX,
    SPAN_PX,
    ViewResults,
    change_report,
    write_view_case,
)

BASE = "http://localhost:8765"


def served(predictions: Path, *slides: Path) -> TestClient:
    view = View(ResultFolder(predictions, fresh_s=0), SlideFolders(slides), SlideWorkers(1), "")
    guard = Guard(make_app(view), hosts=["localhost"], port=8765)
    return TestClient(guard, BASE, raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(view_results: ViewResults) -> Iterator[TestClient]:
    with served(view_results.predictions, view_results.slides) as client:
        yield client


@pytest.fixture
def own(view_results: ViewResults, tmp_path: Path) -> Iterator[tuple[TestClient, ViewResults]]:
    """A server on copies that the test may change."""
    for name in ("predictions", "slides"):
        shutil.copytree(getattr(view_results, name), tmp_path / name)
    copies = ViewResults(tmp_path / "predictions", tmp_path / "slides", view_results.names)
    with served(copies.predictions, copies.slides) as client:
        yield client, copies


def picture(answer) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB")).astype(int)


def identity(client: TestClient, name: str = "case-1") -> str:
    return client.get(f"/api/results/{name}/slide").json()["identity"]


def test_the_page_and_its_files_are_served(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    for name in ("main.js", "openseadragon.min.js", "base.css", "view.css", "icon.svg"):
        assert client.get(f"/static/{name}").status_code == 200, name
        assert f"/static/{name}" in page.text or name in ("icon.svg",)
    for name in ("", "nothing.js", "..%2Fapp.py", "%2e%2e/app.py", "__init__.py"):
        assert client.get(f"/static/{name}").status_code == 404, name


def test_every_module_is_asked_for_at_once(client: TestClient) -> None:
    folder = Path(__file__).parents[2] / "sdk" / "view" / "static"
    page = client.get("/").text
    for path in folder.glob("*.js"):
        assert page.count(f'"/static/{path.name}"') == 1, path.name


def test_the_page_names_no_other_host(client: TestClient) -> None:
    own = [client.get("/").text]
    folder = Path(__file__).parents[2] / "sdk" / "view" / "static"
    own += [p.read_text() for p in folder.iterdir() if "openseadragon" not in p.name]
    for text in own:
        assert "://" not in text.replace("http://www.w3.org/2000/svg", "")


def test_results_are_listed_without_paths(client: TestClient, view_results: ViewResults) -> None:
    answer = client.get("/api/results")
    assert [one["name"] for one in answer.json()] == ["case-1", "case-2"]
    assert str(view_results.predictions) not in answer.text
    one = client.get("/api/results/case-1")
    assert one.json()["report"]["slide"] == "case-1"
    assert one.json()["pictures"] == ["egfr", "tp53"]
    said = one.json()["said"]
    assert said["Research use only. Not a diagnosis."]["zh"] == "仅供研究使用，不作为诊断依据。"
    assert str(view_results.predictions) not in one.text
    assert client.get("/api/results/case-1/picture/1").headers["content-type"] == "image/png"
    assert client.get("/api/results/case-1/picture/2").status_code == 404


def test_the_reports_page_can_ask_this_server_for_nothing(client: TestClient) -> None:
    answer = client.get("/pages/case-1/report.html")
    assert answer.status_code == 200 and "case-1" in answer.text
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts allow-modals; default-src 'none'")
    assert "allow-same-origin" not in policy and "connect-src" not in policy


def test_a_cases_page_leads_to_those_of_its_slides(own) -> None:
    client, folders = own
    write_view_case(folders, "P 1")
    page = client.get("/pages/cases/P%201/report.html")
    assert "sandbox" in page.headers["content-security-policy"]
    links = re.findall(r'href="([^"]+)"', page.text)
    assert len(links) == 2
    for link, name in zip(links, folders.names, strict=True):
        assert urljoin("/pages/cases/P%201/report.html", link) == f"/pages/{name}/report.html"
        assert name in client.get(f"/pages/{name}/report.html").text
    for part in ("/slide", "/layer", "/picture/0"):
        assert client.get(f"/api/results/case:P%201{part}").status_code == 404, part
    assert client.get("/pages/cases/case-1/report.html").status_code == 404
    assert client.get("/pages/nothing/report.html").status_code == 404


def test_a_slides_squares_show_its_pixels(client: TestClient, view_results: ViewResults) -> None:
    info = client.get("/api/results/case-1/slide").json()
    assert info["size_px"] == list(SIZE_PX) and info["differences"] == []
    path = f"/api/results/case-1/tiles/{info['top_level']}/1/1"
    shown = picture(client.get(path, params={"v": info["identity"]}))
    with open_slide(view_results.slides / "case-1.svs") as slide:
        pixels = slide.read((512, 512), 0, (512, 512)).astype(int)
    assert np.abs(shown - pixels).mean() < 3


def test_a_tile_is_shown_as_the_model_saw_it(client: TestClient, view_results: ViewResults) -> None:
    asked = {"x": 2 * SPAN_PX, "y": SPAN_PX, "span": SPAN_PX, "px": 128, "v": identity(client)}
    shown = picture(client.get("/api/results/case-1/region", params=asked))
    with open_slide(view_results.slides / "case-1.svs") as slide:
        pixels = slide.read((2 * SPAN_PX, SPAN_PX), 0, (SPAN_PX, SPAN_PX))
    small = np.asarray(Image.fromarray(pixels).reduce(2)).astype(int)
    assert shown.shape == (128, 128, 3)
    assert np.abs(shown - small).mean() < 4


def test_the_tissue_mask_lies_over_the_slide(client: TestClient) -> None:
    answer = client.get("/api/results/case-1/tissue", params={"v": identity(client)})
    mask = Image.open(io.BytesIO(answer.content))
    downsample = float(answer.headers["x-downsample"])
    assert mask.width * downsample == pytest.approx(SIZE_PX[0], abs=downsample)
    glass = np.asarray(mask)[..., 3] > 0
    assert 0.2 < glass.mean() < 0.9


def test_a_slide_that_is_not_there_leaves_the_reports_own_pictures(
    view_results: ViewResults,
) -> None:
    with served(view_results.predictions) as client:
        assert client.get("/api/results/case-1/slide").status_code == 404
        assert client.get("/api/results/case-1/tiles/0/0/0").status_code == 404
        assert client.get("/api/results/case-1/picture/0").status_code == 200
        assert client.get("/api/results/case-1/layer").status_code == 200


def test_flawed_tiles_are_a_layer_where_the_report_has_some(client: TestClient) -> None:
    flawed = [client.get(f"/api/results/{name}").json()["flaws"] for name in ("case-1", "case-2")]
    assert flawed == [False, True]
    assert client.get("/api/results/case-1/flaws").status_code == 404
    data = client.get("/api/results/case-2/flaws").content
    (length,) = struct.unpack("<I", data[4:8])
    header = json.loads(data[8 : 8 + length])
    assert (header["tiles"], header["columns"]) == (3, ["damaged", "pen"])


def test_a_slide_that_changes_is_no_longer_shown_as_it_was(own) -> None:
    client, folders = own
    was = identity(client)
    path = "/api/results/case-1/tiles/0/0/0"
    assert client.get(path, params={"v": was}).status_code == 200
    shutil.copy(folders.slides / "case-2.svs", folders.slides / "case-1.svs")
    os.utime(folders.slides / "case-1.svs", ns=(0, 10**18))
    assert client.get(path, params={"v": was}).status_code == 409
    now = identity(client)
    assert now != was
    assert client.get(path, params={"v": now}).status_code == 200


def test_another_file_of_the_slides_id_is_told_from_the_one_that_was_predicted(own) -> None:
    client, folders = own
    slide, result = folders.slides / "case-1.svs", folders.predictions / "case-1"
    provenance = json.loads((result / "report.json").read_text())["provenance"]
    made_from = {"slide_sha256": SlideFingerprint.of(slide).content_sha256}
    change_report(result, provenance={**provenance, "made_from": made_from})

    def differing() -> list[str]:
        return [one["key"] for one in client.get("/api/results/case-1/slide").json()["differences"]]

    whole = slide.read_bytes()
    assert differing() == []
    slide.write_bytes(whole + b"\0")
    assert differing() == ["changed_content"], "another size"
    shutil.copy(folders.slides / "case-2.svs", slide)
    assert differing() == ["changed_content"], "another slide"
    slide.write_bytes(whole)
    assert differing() == [], "the same content at another time"
    slide.rename(folders.slides / "moved-1.svs")
    assert client.get("/api/results/case-1/slide").status_code == 404


def test_a_damaged_slide_is_one_line_and_the_server_goes_on(own) -> None:
    client, folders = own
    (folders.slides / "case-1.svs").write_bytes(b"II*\0 damaged")
    answer = client.get("/api/results/case-1/slide")
    assert answer.status_code == 422
    assert "case-1.svs" in answer.text and str(folders.slides) not in answer.text
    assert client.get("/api/results/case-2/slide").status_code == 200


def test_reports_that_are_not_whole_are_said_to_be_that(own) -> None:
    client, folders = own
    report = folders.predictions / "case-1" / "report.json"
    report.unlink()
    assert client.get("/api/results").json()[0]["state"] == "writing"
    assert client.get("/api/results/case-1").status_code == 409
    assert client.get("/api/results/case-1/layer").status_code == 409
    change_report(folders.predictions / "case-2", schema_version=77)
    answer = client.get("/api/results/case-2")
    assert answer.status_code == 409
    assert json.loads(answer.text)["problem_value"] == "77"


def test_a_damaged_layer_is_one_line(own) -> None:
    client, folders = own
    (folders.predictions / "case-1" / "attention.geojson").write_text("{}")
    answer = client.get("/api/results/case-1/layer")
    assert answer.status_code == 422 and "predict its slide again" in answer.text


def test_pictures_that_a_report_names_outside_its_folder_are_not_served(own) -> None:
    client, folders = own
    names = {
        f"heatmap {number}": name
        for number, name in enumerate(
            ("../../slides/case-1.svs", "/etc/passwd", "attention.geojson", "..", "report.json")
        )
    }
    change_report(folders.predictions / "case-1", files=names)
    for number in range(len(names)):
        assert client.get(f"/api/results/case-1/picture/{number}").status_code == 404


def hostile_requests() -> list[tuple[str, dict]]:
    """200 requests that mean no good."""
    rng = random.Random(0)
    climbs = ["../", "..%2f", "%2e%2e/", "..%5c", "....//", "%252e%252e%252f", "..%c0%af", "\\..\\"]
    targets = ["etc/passwd", "report.json", "slides/case-1.svs", "%00", "case-1%00.svs"]
    numbers = [
        "-1",
        "0x10",
        "1e3",
        "9" * 400,
        "٣",
        "NaN",
        "",
        " 1",
        "1.5",
        "2147483648",
        "%20",
        "+1",
    ]
    paths = []
    for climb in climbs:
        for target in targets:
            paths.append((f"/static/{climb * rng.randint(1, 6)}{target}", {}))
            paths.append((f"/api/results/{climb * rng.randint(1, 6)}{target}", {}))
    for number in numbers:
        paths.append((f"/api/results/case-1/tiles/{quote(number)}/0/0", {}))
        paths.append((f"/api/results/case-1/tiles/5/{quote(number)}/0", {}))
        paths.append((f"/api/results/case-1/tiles/5/0/{quote(number)}.jpeg", {}))
        paths.append((f"/api/results/case-1/picture/{quote(number)}", {}))
        for key in ("x", "y", "span", "px"):
            asked = {"x": "0", "y": "0", "span": "256", "px": "64", key: number}
            query = "&".join(f"{name}={quote(value)}" for name, value in asked.items())
            paths.append((f"/api/results/case-1/region?{query}", {}))
    for host in ("evil.example", "localhost", "localhost:1", "", "localhost:8765@evil", "a" * 300):
        paths.append(("/api/results", {"host": host}))
    paths += [("/api/results/" + quote("é" * 200), {}), ("/" + "a/" * 900, {})]
    paths += [("/api/results/case-1/tiles/" + "/".join("9" * 9 for _ in range(3)), {})]
    paths += [(f"/api/results/{quote(chr(code))}/slide", {}) for code in range(1, 17)]
    return paths


def test_hostile_requests_get_refusals_and_never_a_fault(
    client: TestClient, view_results: ViewResults
) -> None:
    asked = hostile_requests()
    assert len(asked) >= 200
    secrets = (b"root:", b"schema_version", (view_results.slides / "case-1.svs").read_bytes()[:64])
    for path, headers in asked:
        answer = client.get(f"{BASE}{path}", headers=headers)
        assert 400 <= answer.status_code < 500, (path, answer.status_code)
        assert not any(secret in answer.content for secret in secrets), path
        assert len(answer.content) < 400
    assert client.get("/api/results/case-1/slide").status_code == 200
