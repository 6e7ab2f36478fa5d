"""A training job and the processes that do it: this one, torchrun's, or a Ray cluster's."""
