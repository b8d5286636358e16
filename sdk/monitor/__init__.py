"""Whether predictions are still like those that went before: by the clock, with an exit code.

``observations`` are what reports say of their slides, ``charts`` compare them window by window with
a baseline, ``page`` shows it. Imports report, evaluation and all below them.
"""

from __future__ import annotations
