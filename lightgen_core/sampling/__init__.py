"""From text to images: the unmasking loop, the head's samplers, inpainting."""
