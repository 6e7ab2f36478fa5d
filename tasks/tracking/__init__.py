"""Curves and scores for TensorBoard, Weights & Biases and MLflow."""
