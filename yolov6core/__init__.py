"""YOLOv6 quantization core: model, data, losses, training, quantization and engines."""
