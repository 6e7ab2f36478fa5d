"""The report: one self-contained page that shows what a run made, how good it is and what it cost."""
