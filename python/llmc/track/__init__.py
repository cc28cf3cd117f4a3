"""Curves for TensorBoard, Weights & Biases and CSV, made from log.jsonl, which they never change."""
