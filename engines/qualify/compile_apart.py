"""A bundle's graphs compiled once in a process of their own: ``python -P -m`` this module.

Compilers are others' native code, and a graph may make them crash, loop or take all memory though
the guard has understood it. `build` compiles a bundle that came from elsewhere here first, so that
this costs an engine and not the process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from pathgene_rt.bundle.bundle import Bundle
from pathgene_rt.engines.registry import EngineFactory
from pathgene_rt.errors import EngineError, PathGeneError
from pathgene_rt.options import EngineOptions
from pathgene_rt.own_process import python_executable

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
        process = subprocess.run(
            [python_executable(), "-P", "-m", __name__, json.dumps(request)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        why = f"did not come to an end in {timeout_s:g} s"
    else:
        if process.returncode == 0:
            return
        try:
            raise EngineError(str(json.loads(process.stdout)["error"]))
        except (ValueError, KeyError, TypeError):
            why = f"ended by {_named(process.returncode)}"
    raise EngineError(
        f"{backend}: compiling the graphs of {bundle.path} {why}; the bundle is damaged or means "
        "harm, or the engine has a fault: try another --engine"
    )


def _named(code: int) -> str:
    """How a process ended, in words."""
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"exit code {code}"


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


def main() -> None:
    """Compile what the request, the only argument, names; a failure is said on stdout."""
    _bound_memory()
    request = json.loads(sys.argv[1])
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
        sys.stdout.write(json.dumps({"error": str(error) or "there is not enough memory"}))
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
