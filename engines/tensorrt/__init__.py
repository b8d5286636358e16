"""NVIDIA TensorRT: engines built for one card, from the bundle's float32 or float16 graph."""
