"""Benchmarks: what students are asked to draw, and who judges the pictures."""
