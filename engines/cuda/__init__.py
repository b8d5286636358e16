"""CUDA as the engines need it: the driver, one device, memory that is shared out, GPU decoding."""
