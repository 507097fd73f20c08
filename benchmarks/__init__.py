"""Speed against the usual libraries, as ratios within one run. `python -m benchmarks report` prints them."""
