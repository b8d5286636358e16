"""The application: what each address answers."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from pathgene_rt.cases.places import CASES_FOLDER
from pathgene_rt.errors import OutputError
from pathgene_rt.pages.messages import in_languages
from pathgene_rt.pages.style import base_css
from pathgene_rt.pages.texts import LANGUAGES, Texts
from pathgene_rt.process_messages import Message
from pathgene_rt.report.geojson import GEOJSON_FILE, QUALITY_FILE
from pathgene_rt.report.heatmap import colour_table
from pathgene_rt.report.page_files import HTML_FILE
from pathgene_rt.view.events import Events
from pathgene_rt.view.pyramid import TILE_PX, Pyramid
from pathgene_rt.view.results import Result, ResultFolder, case_name
from pathgene_rt.view.slide_files import SlideFolders, SlideIdentity, differences
from pathgene_rt.view.slide_workers import BusyError, CrashedError, SlideWorkers

CACHE_BYTES = 64 << 20
MAX_REGION_PX = 512
MAX_PLACE = 1 << 22

REPORT_POLICY = (
    "sandbox allow-scripts allow-modals; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
_STATUS = {"damaged": 422, "slide": 422, "file": 422, "no_tile": 404}


@cache
def static_files() -> dict[str, bytes]:
    """All files of the page by name: nothing else can be asked for."""
    folder = resources.files(__package__) / "static"
    files = {item.name: item.read_bytes() for item in folder.iterdir() if item.is_file()}
    return {**files, "base.css": base_css().encode()}


class View:
    """The state of one server: folders, processes and what was read last."""

    def __init__(
        self, results: ResultFolder, slides: SlideFolders, workers: SlideWorkers, language: str
    ) -> None:
        self.results = results
        self.slides = slides
        self.workers = workers
        self.language = language
        self.events = Events(results)
        self.scan_picture: bytes | None = None
        self._cache: OrderedDict[tuple[Any, ...], Message] = OrderedDict()
        self._cached_bytes = 0

    async def ask(self, job: Mapping[str, Any], identity: str, *, keep: bool = True) -> Message:
        """What a slide process answers to ``job``. Raises HTTPException where it cannot."""
        key = (identity, *sorted(job.items()))
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        try:
            header, payload = await asyncio.wrap_future(self.workers.submit(job, identity))
        except BusyError:
            raise HTTPException(503, "busy", {"Retry-After": "1"}) from None
        except CrashedError as error:
            raise HTTPException(502, str(error)) from None
        if "error" in header:
            status = _STATUS[header["error"]]
            raise HTTPException(status, str(header.get("message", header["error"])))
        if keep:
            self._keep(key, (header, payload))
        return header, payload

    def _keep(self, key: tuple[Any, ...], answer: Message) -> None:
        self._cached_bytes += len(answer[1])
        self._cache[key] = answer
        while self._cached_bytes > CACHE_BYTES:
            _, (_, dropped) = self._cache.popitem(last=False)
            self._cached_bytes -= len(dropped)

    async def result(self, request: Request, name_of: Callable[[str], str] = str) -> Result:
        """The result that the address names. Raises HTTPException."""
        name = name_of(request.path_params["name"])
        found = await run_in_threadpool(self.results.get, name)
        if found is None:
            raise HTTPException(404, "no such result")
        return found

    async def slide(self, result: Result) -> tuple[Path, SlideIdentity, int]:
        """The result's slide, what tells whether it changed, and how many files have its id.

        Raises HTTPException.
        """
        slide_id = None if result.is_case else result.summary.get("slide")
        found = await run_in_threadpool(self.slides.find, slide_id) if slide_id else ()
        if not found:
            raise HTTPException(404, "no slide")
        try:
            return found[0], SlideIdentity.of(found[0]), len(found)
        except OSError:
            raise HTTPException(404, "no slide") from None


def make_app(view: View) -> Starlette:
    """The application on ``view``, whose processes end with it."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        view.events.started()
        yield
        view.events.close()
        await run_in_threadpool(view.workers.close)

    def route(path: str, answer: Callable[[View, Request], Awaitable[Response]]) -> Route:
        async def endpoint(request: Request) -> Response:
            return await answer(view, request)

        return Route(path, endpoint, methods=["GET"])

    one = "/api/results/{name}"
    # Beside each other as the files are, so that a case's page leads to its slides' pages.
    page = f"/pages/{{name}}/{HTML_FILE}"
    case_page = f"/pages/{CASES_FOLDER}/{{name}}/{HTML_FILE}"
    return Starlette(
        routes=[
            route("/", _page),
            route("/static/{file}", _static),
            route("/api/page", _page_facts),
            route("/api/results", _results),
            route(one, _result),
            route(f"{one}/picture/{{number}}", _picture),
            route(page, _report_page),
            route(case_page, _case_page),
            route(f"{one}/layer", _layer),
            route(f"{one}/flaws", _flaws),
            route(f"{one}/slide", _slide),
            route(f"{one}/tiles/{{level}}/{{column}}/{{row}}", _tile),
            route(f"{one}/region", _region),
            route(f"{one}/tissue", _tissue),
            route("/api/scan/picture", _scan_picture),
            route("/api/events", _events),
        ],
        lifespan=lifespan,
    )


def _number(text: str | None, low: int, high: int) -> int:
    """A whole number of the address. Raises HTTPException for anything else."""
    if text is None or not text.isascii() or not text.removeprefix("-").isdigit():
        raise HTTPException(400, "not a whole number")
    if len(text) > 9 or not low <= int(text) <= high:
        raise HTTPException(400, f"not within {low} to {high}")
    return int(text)


async def _page(view: View, request: Request) -> Response:  # noqa: ARG001
    return Response(static_files()["index.html"], media_type=_TYPES[".html"])


async def _static(view: View, request: Request) -> Response:  # noqa: ARG001
    name = request.path_params["file"]
    data = static_files().get(name)
    if data is None:
        raise HTTPException(404, "no such file")
    return Response(data, media_type=_TYPES.get(Path(name).suffix, "application/octet-stream"))


async def _page_facts(view: View, request: Request) -> Response:
    """Texts of both languages, the colours, and what this server was given."""
    del request
    texts = {
        language: {
            name: Texts(language).table(name)
            for name in ("common", "words", "reasons", "report", "view")
        }
        | {"html_lang": Texts(language).html_lang}
        for language in LANGUAGES
    }
    return JSONResponse(
        {
            "texts": texts,
            "language": view.language,
            "colours": colour_table().tolist(),
            "slides_given": view.slides.given,
            "folder": view.results.root.name,
        }
    )


async def _results(view: View, request: Request) -> Response:
    del request
    found = await run_in_threadpool(view.results.results)
    return JSONResponse([result.to_dict() for result in found.values()])


async def _document(view: View, result: Result) -> dict[str, Any]:
    if result.state != "ready":
        raise HTTPException(409, json.dumps(result.to_dict(), ensure_ascii=False))
    try:
        return await run_in_threadpool(view.results.document, result)
    except OutputError:
        raise HTTPException(409, json.dumps({"state": "writing"})) from None


def _pictures(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(head, file name) of the report's heatmaps."""
    files = document.get("files")
    if not isinstance(files, dict):
        return []
    return [
        (what.removeprefix("heatmap "), name)
        for what, name in files.items()
        if what.startswith("heatmap ") and isinstance(name, str)
    ]


async def _result(view: View, request: Request) -> Response:
    """The whole report, and what there is to see of it."""
    result = await view.result(request)
    document = await _document(view, result)
    layer = view.results.file(result, GEOJSON_FILE)
    return JSONResponse(
        {
            **result.to_dict(),
            "report": document,
            "said": _said(document),
            "pictures": [head for head, _ in _pictures(document)],
            "layer": layer is not None,
            "flaws": view.results.file(result, QUALITY_FILE) is not None,
            "html": view.results.file(result, HTML_FILE) is not None,
        }
    )


def _said(document: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """What the report says in sentences of its own, by these: in each language that is known."""
    partial = document.get("partial") or {}
    sentences = [*document["warnings"], partial.get("why"), document.get("intended_use")]
    return {text: in_languages(text) for text in sentences if isinstance(text, str)}


async def _picture(view: View, request: Request) -> Response:
    result = await view.result(request)
    pictures = _pictures(await _document(view, result))
    number = _number(request.path_params["number"], 0, 10_000)
    path = view.results.file(result, pictures[number][1]) if number < len(pictures) else None
    if path is None or path.suffix != ".png":
        raise HTTPException(404, "no such picture")
    data = await run_in_threadpool(path.read_bytes)
    return Response(data, media_type="image/png")


async def _report_page(view: View, request: Request) -> Response:
    return await _own_page(view, await view.result(request))


async def _case_page(view: View, request: Request) -> Response:
    return await _own_page(view, await view.result(request, case_name))


async def _own_page(view: View, result: Result) -> Response:
    """The report's own page. It has scripts and styles inside, so it gets an origin of its own,
    which can ask this server for nothing."""
    await _document(view, result)
    path = view.results.file(result, HTML_FILE)
    if path is None:
        raise HTTPException(404, "no such page")
    data = await run_in_threadpool(path.read_bytes)
    return Response(data, 200, {"Content-Security-Policy": REPORT_POLICY}, _TYPES[".html"])


async def _layer(view: View, request: Request) -> Response:
    return await _tiles(view, request, GEOJSON_FILE)


async def _flaws(view: View, request: Request) -> Response:
    """The tiles that checks of quality flag, as a layer."""
    return await _tiles(view, request, QUALITY_FILE)


async def _tiles(view: View, request: Request, name: str) -> Response:
    result = await view.result(request)
    await _document(view, result)
    path = view.results.file(result, name)
    if path is None:
        raise HTTPException(404, "no tiles")
    job = {"job": "layer", "path": str(path)}
    _, data = await view.ask(job, str(SlideIdentity.of(path)))
    return Response(data, media_type="application/octet-stream")


async def _slide(view: View, request: Request) -> Response:
    """The slide's size and scale, and what speaks against its being the report's."""
    result = await view.result(request)
    document = await _document(view, result)
    path, identity, files = await view.slide(result)
    info, _ = await view.ask({"job": "info", "path": str(path)}, str(identity))
    return JSONResponse(
        {
            **info,
            "tile_px": TILE_PX,
            "top_level": Pyramid(tuple(info["size_px"])).top,
            "differences": differences(document, info, identity),
            "files": files,
        }
    )


async def _slide_as_shown(view: View, request: Request) -> tuple[Path, str]:
    """The slide if it still is the file that the page shows. Raises HTTPException."""
    path, identity, _ = await view.slide(await view.result(request))
    if request.query_params.get("v") != str(identity):
        raise HTTPException(409, "changed")
    return path, str(identity)


async def _tile(view: View, request: Request) -> Response:
    level = _number(request.path_params["level"], 0, 32)
    column = _number(request.path_params["column"], 0, MAX_PLACE)
    row = _number(request.path_params["row"].removesuffix(".jpeg"), 0, MAX_PLACE)
    path, identity = await _slide_as_shown(view, request)
    job = {"job": "tile", "path": str(path), "level": level, "column": column, "row": row}
    _, data = await view.ask(job, identity)
    return Response(data, media_type="image/jpeg")


async def _region(view: View, request: Request) -> Response:
    """A square, such as a tile as the model saw it."""
    asked = request.query_params
    job = {
        "job": "region",
        "x": _number(asked.get("x"), -MAX_PLACE, MAX_PLACE),
        "y": _number(asked.get("y"), -MAX_PLACE, MAX_PLACE),
        "span_px": _number(asked.get("span"), 1, 16_384),
        "px": _number(asked.get("px"), 16, MAX_REGION_PX),
    }
    path, identity = await _slide_as_shown(view, request)
    _, data = await view.ask({**job, "path": str(path)}, identity)
    return Response(data, media_type="image/jpeg")


async def _tissue(view: View, request: Request) -> Response:
    path, identity = await _slide_as_shown(view, request)
    found, data = await view.ask({"job": "tissue", "path": str(path)}, identity)
    return Response(data, 200, {"X-Downsample": str(found["downsample"])}, "image/png")


async def _scan_picture(view: View, request: Request) -> Response:
    """The slide that is being scanned in this process."""
    del request
    if view.scan_picture is None:
        raise HTTPException(404, "nothing is scanned here")
    return Response(view.scan_picture, media_type="image/jpeg")


async def _events(view: View, request: Request) -> Response:
    del request
    if view.events.full:
        raise HTTPException(503, "too many pages listen", {"Retry-After": "10"})
    return StreamingResponse(view.events.stream(), media_type="text/event-stream")
