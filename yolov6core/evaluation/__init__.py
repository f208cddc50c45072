"""Suppression, COCO average precision and pictures."""
