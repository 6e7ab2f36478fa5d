"""Duplicates and diversity: search over embeddings and hashes, MinHash over text, figures of diversity."""
