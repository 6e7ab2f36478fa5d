"""Artifacts on any fsspec file system: keys, manifests, atomic files. Imports neither torch nor Prefect."""
