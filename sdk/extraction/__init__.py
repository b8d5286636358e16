"""From a slide's file to its bag, and on where a killed run was.

``prepare`` opens a slide and plans its tiles, ``slide_extractor`` is what others call,
``encoding_run`` goes from tiles to a bag, ``extract`` streams the tiles, ``decode_choice`` decides
by trying (``scaled_decode``, ``device_decode``) how pixels are decoded, ``feature_journal`` and
``run_identity`` let a run be resumed. Knows no heads. Imports streaming, tiles, features, engines,
slides, bundle and the root.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathgene_rt.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathgene_rt.extraction.encoding_run import EncodedSlide
    from pathgene_rt.extraction.prepare import PreparedSlide
    from pathgene_rt.extraction.slide_extractor import SlideEncoder

__all__ = ["EncodedSlide", "PreparedSlide", "SlideEncoder"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "EncodedSlide": "encoding_run",
        "PreparedSlide": "prepare",
        "SlideEncoder": "slide_extractor",
    },
)
