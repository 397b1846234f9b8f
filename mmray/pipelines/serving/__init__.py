"""The endpoint: generation, embeddings, transcription, classification and search over HTTP, on Ray Serve."""
