"""Embeddings joined, labelled, split, and what is learnt from them."""
