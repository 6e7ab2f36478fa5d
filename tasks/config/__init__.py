"""Recipe and settings: what is made, and where it runs."""
