"""Teachers: what draws the pictures that the student learns from."""
