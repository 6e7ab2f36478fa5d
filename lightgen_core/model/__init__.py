"""The student: masked autoregressive transformer, per-token head, patches, released weights, save and load."""
