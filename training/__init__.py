"""Two-phase Keras training (frozen backbone, then full fine-tuning) that writes one checkpoint per phase."""
