"""ONNX Runtime: on the CPU everywhere, on NVIDIA cards by its CUDA and TensorRT providers."""

import os

# From 1.31 on `import onnxruntime` looks up a host and keeps a device id in the user's cache folder
# unless it finds this; what its own function turns off later has been sent by then. Whoever imports
# it in this package does so after this one.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
