"""The report: one self-contained page on a run's outputs, scores and cost."""
