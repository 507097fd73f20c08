"""Front ends: a classifier from elsewhere becomes an exported graph, proved equal to its source."""
