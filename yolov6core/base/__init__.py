"""Leaf modules: files, errors, boxes and integers; they know nothing of networks or datasets."""
