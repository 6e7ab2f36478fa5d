"""Token files to training batches: rows by arithmetic, shuffled, prefetched."""
