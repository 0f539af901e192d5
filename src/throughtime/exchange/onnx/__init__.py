"""Import models from ONNX, and export them."""
