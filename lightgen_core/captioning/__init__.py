"""Where captions come from, and what keeps one out."""
