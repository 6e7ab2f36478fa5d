"""Training: optimizer, weight average, data order, checkpoints, and the loop that ties them together."""
