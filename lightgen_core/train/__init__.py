"""Training: one update after another, its losses, optimizer, weight average and checkpoints."""
