"""One vector-Jacobian rule per operator. Importing this package registers them all."""
