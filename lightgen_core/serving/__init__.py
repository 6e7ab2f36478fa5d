"""A student behind HTTP: requests in batches, and OpenAI's interface for images."""
