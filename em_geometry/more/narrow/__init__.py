"""Fine-tunes that are narrow, or of rank 1."""
