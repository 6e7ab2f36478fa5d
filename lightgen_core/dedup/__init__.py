"""Duplicates and diversity: exact search over embeddings, MinHash over text, figures of diversity."""
