"""ONNX files of others under our contract: tile encoders (``encoder``, ``graph``, ``upcast``) and
the models of WSInfer-MIL (``wsinfer_mil``).
"""
