"""The scene world: captions, teacher images and a verifiable detector."""
