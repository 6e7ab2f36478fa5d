"""A GPU without a GPU: fake CUDA tensors, a backward pass, and a watcher of what runs on them."""
