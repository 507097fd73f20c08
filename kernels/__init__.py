"""Pure array functions: CAM reductions, map geometry and map metrics. NumPy and numba only."""
