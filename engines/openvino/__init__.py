"""OpenVINO: the engine of choice on Intel and AMD processors."""

import sys

# With this package at hand, `import openvino` forks the process and reports to Google Analytics;
# OpenVINO takes None, which looks as if it were not installed, for its own stand-in.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
