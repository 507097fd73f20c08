"""What every room may use: errors and exit codes, files and addresses, validation, provenance, formats of numbers."""
