"""A model with golden cases for the deployment side: pack it, and verify it there."""
