"""``pathgene-rt view``: a local page of results, and of slides with the answer on them.

``results`` and ``slide_files`` know what lies in the folders given, ``pyramid`` how a slide is cut
into squares, ``slide_process`` reads slides in processes of its own that ``slide_workers`` starts,
``attention_layer`` packs tiles for the page; ``guard`` decides who may ask, ``app`` answers and
``server`` listens. The page itself is ``static/``: plain JavaScript modules and OpenSeadragon.
The runtime never imports this room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathgene_rt.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathgene_rt.view.server import ViewOptions, serve

__all__ = ["ViewOptions", "serve"]

__getattr__, __dir__ = lazy_names(__name__, {"ViewOptions": "server", "serve": "server"})
