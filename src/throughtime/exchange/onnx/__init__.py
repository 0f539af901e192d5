"""Models from and to ONNX."""
