"""Frozen encoders: CLIP, the image autoencoder, the text encoder, and how a recipe names them."""
