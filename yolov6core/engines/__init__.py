"""ONNX export and inference engines."""
