"""The input of networks: written datasets, transforms, augmentation and loaders."""
