"""ONNX Runtime: on the CPU everywhere, on NVIDIA cards by its CUDA and TensorRT providers."""
