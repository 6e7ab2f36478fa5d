"""The diffusion objectives of the per-token head, their noise schedule and Gaussians."""
