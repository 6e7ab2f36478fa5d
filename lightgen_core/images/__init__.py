"""Encoding, safe decoding, and image sets with captions."""
