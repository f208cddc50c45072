"""Readers, checks and writers of datasets, for `prepare-voc2yolo`."""
