"""Image bytes and image sets with captions, read without trusting a byte of them."""
