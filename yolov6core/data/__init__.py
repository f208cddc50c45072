"""What networks are fed: written datasets, transforms, augmentation and loaders."""
