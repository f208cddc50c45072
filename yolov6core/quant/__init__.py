"""Fake quantization, calibration, scale groups and sensitivity, on torch alone."""
