"""A page to look at the rows of a store: captions, images, what was dropped, pairs, samples, a map."""
