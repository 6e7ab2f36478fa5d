"""Vision-language models that judge and caption images: behind an endpoint, or of transformers."""
