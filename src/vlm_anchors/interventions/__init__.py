"""Puts methods on unmodified transformers models and takes them off again."""
