"""Label assignment: which anchors learn which ground truth."""
