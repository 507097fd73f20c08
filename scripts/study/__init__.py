"""The study of docs/study, from training to the written page: `python -m scripts.study`."""
