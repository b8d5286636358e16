"""How a folder is watched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pathgene_rt.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class WatchSettings:
    """``settle_s`` is how long a slide's files must stand still, in size and time, until they count
    as whole; ``poll_s`` how long the watcher waits between two looks; ``recursive``: slides in
    folders of the inbox, too. ``priority`` is a file of patterns of names, one a line: slides that
    match the first come first, then those of the second; the rest by their files' time.
    ``min_free_bytes`` must be free where results go, or work pauses. ``on_done`` is a command and
    its arguments, to which the folder of each result is added; it has ``hook_timeout_s``.
    ``give_up_s`` is how long a slide that cannot be opened is tried again.
    """

    settle_s: float = 30.0
    poll_s: float = 5.0
    recursive: bool = False
    priority: Path | None = None
    min_free_bytes: int = 2_000_000_000
    on_done: tuple[str, ...] = ()
    hook_timeout_s: float = 600.0
    give_up_s: float = 900.0

    def __post_init__(self) -> None:
        for name, value, low in (
            ("--settle", self.settle_s, 0.0),
            ("--poll", self.poll_s, 0.01),
            ("--give-up", self.give_up_s, 0.0),
        ):
            if not low <= value <= 86_400:
                raise UsageError(
                    f"{name} {value:g} is out of range; choose {low:g} to 86400 seconds"
                )
