"""Dataset readers, transforms, augmentation and loaders."""
