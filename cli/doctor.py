"""``pathgene-rt doctor``: engines, devices, versions, and what to install."""

from __future__ import annotations

from pathgene_rt.cli.console import Console, JsonOption, QuietOption


def doctor(json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Say which engines can run here, with what, and what is missing."""
    from pathgene_rt.engines.diagnosis import diagnose
    from pathgene_rt.options import default_cache_dir

    console = Console(json=json, quiet=quiet)
    found = diagnose(default_cache_dir())
    bfloat16 = "yes" if found.bfloat16 else "no"
    console.say(found.system)
    console.say(f"{found.cpu}, {found.cpus} cpus, native bfloat16: {bfloat16}")
    console.say(f"instruction sets: {', '.join(found.cpu_features) or 'baseline only'}")
    rows = [
        [
            name,
            engine.version,
            ", ".join(engine.devices),
            ", ".join(engine.precisions),
            engine.reason or "ready",
        ]
        for name, engine in found.engines.items()
    ]
    console.table("Engines, preferred first", ["engine", "version", "device", "in", ""], rows)
    packages = [[name, version or "missing"] for name, version in found.packages.items()]
    console.table("Packages", ["package", "version"], packages)
    for extra in found.extras:
        if extra.missing:
            missing = ", ".join(extra.missing)
            console.say(f"for {extra.purpose}: {extra.install} (missing: {missing})")
    if found.cache is not None:
        state = found.cache.problem or "writable"
        console.say(f"cache: {found.cache.path}, {found.cache.size_bytes / 1e6:.1f} MB, {state}")
    console.emit(found.to_dict())
    found.require_engine()
