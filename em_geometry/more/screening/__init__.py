"""What training texts foretell of the training."""
