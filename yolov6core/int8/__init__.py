"""The wing of quantized networks: checkpoints, comparison with the float network, layer ranking, QAT."""
