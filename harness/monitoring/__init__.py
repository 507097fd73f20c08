"""The deployed model on new, unlabelled pictures, night after night, against those of its accepted evaluation."""
