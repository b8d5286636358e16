"""Slides that are pushed while a scanner takes them.

``session`` is what a scanner's software calls, with ``input`` and ``progress``; ``intake`` and
``assembler`` make fields of view into tiles, ``tissue_guess`` says which are worth encoding at
once, ``deferred_tiles`` keeps the others, ``mosaic`` the overview; ``result`` is the report at the
end. ``simulator`` and ``stage`` play a scanner. Imports report and all below it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathgene_rt.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathgene_rt.scan.input import ScanOptions
    from pathgene_rt.scan.progress import ScanProgress
    from pathgene_rt.scan.session import ScanSession
    from pathgene_rt.scan.simulator import simulate_scan
    from pathgene_rt.scan.stage import Stage

__all__ = ["ScanOptions", "ScanProgress", "ScanSession", "Stage", "simulate_scan"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ScanOptions": "input",
        "ScanProgress": "progress",
        "ScanSession": "session",
        "Stage": "stage",
        "simulate_scan": "simulator",
    },
)
