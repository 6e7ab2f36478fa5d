"""The pipeline as a graph, its Prefect flow, its recipes and its command line."""
