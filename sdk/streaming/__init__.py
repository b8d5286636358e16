"""The queues between those who bring tiles and the encoder that takes them.

``tile_reader`` decodes a file's tiles in threads, straight into the batches of ``batcher``, which
``encoder_service`` runs through one engine for any number of slides. Imports quality, tiles,
engines, slides, bundle and the root.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathgene_rt.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathgene_rt.streaming.batcher import TileBatcher
    from pathgene_rt.streaming.encoder_service import EncoderService, EncodeStats
    from pathgene_rt.streaming.tile_reader import TileReader

__all__ = ["EncodeStats", "EncoderService", "TileBatcher", "TileReader"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "EncodeStats": "encoder_service",
        "EncoderService": "encoder_service",
        "TileBatcher": "batcher",
        "TileReader": "tile_reader",
    },
)
