"""Label assignment: the ground truth that each anchor learns."""
