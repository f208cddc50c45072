"""Networks as ONNX files, one way of writing for each kind of runtime, and their checks against torch."""
