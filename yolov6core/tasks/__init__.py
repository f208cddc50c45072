"""The wing that joins models, data, losses, quantization and evaluation: what a stage is a recipe of."""
