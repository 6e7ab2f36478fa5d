"""What the Prefect UI shows of stages and runs."""
