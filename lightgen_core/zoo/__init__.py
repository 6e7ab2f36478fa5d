"""Tiny trained models of the real classes, so that every stage runs without a download.

`zoo:autoencoder` is a diffusers AutoencoderDC, `zoo:t5` a transformers T5 encoder with its tokenizer, `zoo:clip` an
open_clip CLIP. All three know the scene world and nothing else. docs/zoo.md says how good they are.
"""
