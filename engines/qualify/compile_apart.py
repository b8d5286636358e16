"""A bundle's graphs compiled once in a process of their own, which runs this module.

Compilers are others' native code, and a graph may make them crash, loop or take all memory though
the guard has understood it. `build` compiles a bundle that came from elsewhere here first, so that
this costs an engine and not the process.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.engines.registry import EngineFactory
from pathgene_rt.errors import EngineError, PathGeneError
from pathgene_rt.options import EngineOptions
from pathgene_rt.own_process import ProcessEndedError, answer_once, ask_once
from pathgene_rt.process_messages import Message

TIMEOUT_S = 600.0
"""A hundred times what CTransPath takes on two cores."""

LEAST_ADDRESS_BYTES = 8 << 30
"""Libraries reserve more than they use; a graph may have as much as the machine, or this."""


def require_compilable(
    bundle: Bundle, backend: str, threads: int = 0, timeout_s: float = TIMEOUT_S
) -> None:
    """Raise EngineError unless a process that compiles every graph of ``bundle`` for ``backend`` in
    float32 comes to its own end, and says that they compile."""
    request = {"bundle": str(bundle.path), "backend": backend, "threads": threads}
    try:
        answer, _ = ask_once(__name__, request, seconds=timeout_s)
    except ProcessEndedError as error:
        raise EngineError(
            f"{backend}: the process that compiled the graphs of {bundle.path} {error}; the bundle "
            "is damaged or means harm, or the engine has a fault: try another --engine"
        ) from error
    if answer["error"]:
        raise EngineError(answer["error"])


def _bound_memory() -> None:
    if sys.platform != "win32":
        import resource

        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        soft = max(memory, LEAST_ADDRESS_BYTES)
        if hard != resource.RLIM_INFINITY:
            soft = min(soft, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _compile(request: dict[str, Any], _payload: bytes) -> Message:
    """Compile what ``request`` names; the answer has why that failed, or an empty ``error``."""
    _bound_memory()
    options = EngineOptions(
        backend=request["backend"],
        precision="float32",
        threads=request["threads"],
        cache_dir=None,
    )
    try:
        with Bundle.open(Path(request["bundle"])) as bundle, ExitStack() as engines:
            factory = EngineFactory(bundle, options)
            engines.enter_context(factory.encoder())
            for head in bundle.heads:
                engines.enter_context(factory.head(head.name))
                if head.pooling is not None:
                    engines.enter_context(factory.pooling(head.pooling))
    except (PathGeneError, MemoryError) as error:
        return {"error": str(error) or "there is not enough memory"}, b""
    return {"error": ""}, b""


if __name__ == "__main__":
    answer_once(_compile)
