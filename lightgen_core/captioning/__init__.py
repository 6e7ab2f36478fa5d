"""Captions: sources, filters, deduplication and selection."""
