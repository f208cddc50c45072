"""Network definition: variants, blocks, backbone, neck, head, detector."""
