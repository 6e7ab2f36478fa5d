"""Records of what processes and devices spend, and samples of the driver."""
