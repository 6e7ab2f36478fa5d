"""Teachers: generators of the images that the student learns from."""
