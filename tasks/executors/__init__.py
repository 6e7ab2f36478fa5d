"""Executors: who computes the shards of a stage, on this machine or on a Ray cluster."""
