"""The wing of engines: opened by path, run on pictures, measured on a split, compared for people."""
