"""Pages of stages and runs in the Prefect UI."""
