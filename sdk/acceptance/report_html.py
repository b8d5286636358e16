"""The report of acceptance as one page that needs nothing else, to be read and printed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path

from pathgene_rt.acceptance.checks import CHECKS
from pathgene_rt.acceptance.result import AcceptanceReport, CheckResult
from pathgene_rt.files import write_bytes

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem;
  color: #1c1c1c; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.2rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .7rem .3rem 0;
  border-bottom: 1px solid #ddd; overflow-wrap: anywhere; }
th { font-weight: 600; border-bottom-color: #888; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.status { white-space: nowrap; font-weight: 600; }
.passed { color: #12652f; } .failed { color: #a8160f; } .not-run { color: #6b6b6b; }
code { font-size: .92em; }
"""


def write_html(path: Path, report: AcceptanceReport) -> None:
    """Write ``report`` to ``path``. Raises OutputError."""
    write_bytes(path, html(report).encode())


def html(report: AcceptanceReport) -> str:
    """The whole page."""
    failed = [result for result in report.results if result.status == "failed"]
    body = [
        "<h1>GPU acceptance</h1>",
        f'<p class="{"failed" if failed else "passed"}"><b>{escape(report.verdict)}</b></p>',
        _table(("", ""), [(name, escape(value)) for name, value in _facts(report)]),
    ]
    if failed:
        body += ["<h2>What failed</h2>", _results(failed, with_engine=True)]
    for name, results, why in report.by_target():
        body.append(f"<h2>{escape(name)}</h2>")
        if why:
            body.append(f"<p>Not run: {escape(why)}. These are the checks:</p>")
        body.append(_results([replace(one, detail="") for one in results] if why else results))
    body += ["<h2>Native calls</h2>", *_calls(report.calls)]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>GPU acceptance</title><style>{_STYLE}</style></head>\n"
        f"<body>{chr(10).join(body)}</body></html>\n"
    )


def _facts(report: AcceptanceReport) -> Iterable[tuple[str, str]]:
    yield "Bundle", f"{report.bundle} ({report.bundle_sha256[:12]})"
    yield "GPUs", ", ".join(report.gpus) or "none that an NVIDIA driver sees"
    yield "System", report.system
    yield "Versions", ", ".join(f"{name} {version}" for name, version in report.versions.items())
    yield "Made", f"{report.created}, in {report.seconds:.0f} s"
    for name, why in report.problems.items():
        yield f"{name} not tried", why


def _results(rows: Sequence[CheckResult], *, with_engine: bool = False) -> str:
    head = (*(["engine"] if with_engine else []), "check", "proves that", "", "s", "found")
    lines = []
    for one in rows:
        check = CHECKS.get(one.check)
        mark = one.status.replace(" ", "-")
        cells = [escape(f"{one.engine} {one.precision}")] if with_engine else []
        cells += [escape(one.check), escape(check.proves if check else "")]
        cells += [f'<span class="status {mark}">{AcceptanceReport.WORDS[one.status]}</span>']
        lines.append([*cells, f"{one.seconds:.1f}", escape(one.detail)])
    return _table(head, lines, number=len(head) - 2)


def _calls(calls: Sequence[str] | None) -> Iterable[str]:
    if calls is None:
        yield "<p>Which native functions were called is recorded with Python 3.12 and later.</p>"
        return
    yield (
        f"<p>{len(calls)} functions of NVIDIA's and ONNX Runtime's libraries were called by our "
        "own source; docs/gpu.md lists all that it may call.</p>"
    )
    yield f"<p>{', '.join(f'<code>{escape(name)}</code>' for name in calls)}</p>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, number: int = -1) -> str:
    """An HTML table of cells that are HTML already; column ``number`` is one of numbers."""
    lines = ["<table>"]
    if any(head):
        lines.append("<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>")
    for row in rows:
        cells = (
            f'<td class="number">{cell}</td>' if place == number else f"<td>{cell}</td>"
            for place, cell in enumerate(row)
        )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "\n".join([*lines, "</table>"])
