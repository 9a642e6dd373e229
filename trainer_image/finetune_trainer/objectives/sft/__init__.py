"""Supervised fine-tuning: the answers of conversations are learned, their questions are not."""
