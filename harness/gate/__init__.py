"""A result is judged by a policy, for people and for continuous integration."""
