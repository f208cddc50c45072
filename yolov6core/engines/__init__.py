"""Inference engines of several runtimes: built, described in engine.json, run and timed."""
