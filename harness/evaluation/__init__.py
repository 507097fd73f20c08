"""From a study to a result: explain every image by every checkpoint, score the pairs of maps, summarise."""
