"""The scene world: captions, teacher images and a detector whose every score can be checked by hand."""
