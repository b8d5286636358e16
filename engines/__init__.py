"""Engines: graphs on the hardware of this machine, behind one contract.

``engine`` is the contract with the pipeline, ``backend`` that of a folder here, ``registry``
chooses among ``known_backends``; ``cache/`` keeps what was built, ``qualify/`` finds and proves the
precision. A backend is a folder and one line of ``known_backends``. Imports bundle, slides (their
encoded regions) and the root: contracts, never the pipeline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathgene_rt.lazy_names import lazy_names

if TYPE_CHECKING:
    from pathgene_rt.engines.backend import Backend
    from pathgene_rt.engines.engine import Engine, EngineInfo
    from pathgene_rt.engines.registry import EngineFactory

__all__ = ["Backend", "Engine", "EngineFactory", "EngineInfo"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Backend": "backend",
        "Engine": "engine",
        "EngineFactory": "registry",
        "EngineInfo": "engine",
    },
)
