"""Evaluation: benchmarks, their prompts, the judges of images, and scores with intervals."""
