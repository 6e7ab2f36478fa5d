"""Filters of images: measures of pixels, heads on CLIP embeddings, a judge's score; each drop with its reason."""
