"""``report.html`` and ``report.pdf``: one page to read, on a screen and on paper."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pathgene_rt.files import write_bytes
from pathgene_rt.options import PredictOptions
from pathgene_rt.report.attention import class_attention
from pathgene_rt.report.contents import ReportContents, Written
from pathgene_rt.report.page import report_page
from pathgene_rt.report.page_pictures import (
    MOST_CELLS,
    PagePictures,
    attention_layers,
    layer_size_px,
    slide_picture,
    tile_picture,
)
from pathgene_rt.report.pdf import pdf_of
from pathgene_rt.report.report import Report

HTML_FILE, PDF_FILE = "report.html", "report.pdf"


class PageWriter:
    """Makes the pictures once, where the slide's overview is at hand, for each kind of file."""

    stale = (HTML_FILE, PDF_FILE)
    uses_overview = True

    def wanted(self, report: Report, options: PredictOptions) -> bool:  # noqa: ARG002 - always
        return options.html or options.pdf

    def write(self, contents: ReportContents, folder: Path) -> Written:
        options = contents.options
        document, pictures = contents.report.to_dict(), _pictures(contents)
        files = {}
        if options.html:
            page = report_page(document, pictures=pictures, language=options.language)
            write_bytes(folder / HTML_FILE, page.encode())
            files["html"] = HTML_FILE
        if options.pdf:
            page = report_page(document, pictures=pictures, language=options.language, paper=True)
            write_bytes(folder / PDF_FILE, pdf_of(page))
            files["pdf"] = PDF_FILE
        return Written(files=files)


def _pictures(contents: ReportContents) -> PagePictures | None:
    if contents.overview is None:
        return None
    report, bag = contents.report, contents.bag
    address, shown_px = slide_picture(contents.overview)
    predictions = {prediction.head: prediction for prediction in report.predictions}
    count = sum(
        len(class_attention(attention, predictions[head])) or 1
        for head, attention in report.attention.items()
    )
    layers = {
        head: attention_layers(bag, predictions[head], attention, MOST_CELLS // count)
        for head, attention in report.attention.items()
    }
    tiles: dict[str, tuple[str | None, ...]] = {}
    if contents.read_tiles is not None:
        wanted = [evidence.rows for evidence in report.evidence.values()]
        rows = np.unique(np.concatenate([np.zeros(0, np.int64), *wanted]))
        by_row = dict(zip(rows.tolist(), contents.read_tiles(rows), strict=True))
        drawn = {row: tile_picture(rgb) for row, rgb in by_row.items()}
        tiles = {
            head: tuple(drawn[row] for row in evidence.rows.tolist())
            for head, evidence in report.evidence.items()
        }
    return PagePictures(
        slide=address,
        size_px=contents.info.size_px,
        shown_px=shown_px,
        layer_px=layer_size_px(bag),
        layers=layers,
        tiles=tiles,
    )
