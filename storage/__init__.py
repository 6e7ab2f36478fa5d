"""Artifacts on any fsspec file system: keys, manifests, atomic files. Knows neither torch nor Prefect."""
