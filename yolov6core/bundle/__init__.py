"""Folders that carry a network to the device that builds, runs and checks it."""
