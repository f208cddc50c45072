"""Readers, checks and writers of datasets: what `prepare-voc2yolo` is made of."""
