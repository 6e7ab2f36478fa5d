"""Sets of pictures with captions that come from elsewhere, read without trusting a byte of them."""
