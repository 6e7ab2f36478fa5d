"""The masked autoregressive student: model, per-token head, patches, and the import of released weights."""
