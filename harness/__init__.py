"""Attribution drift between two exported checkpoints: evaluate, and what reads its results."""
