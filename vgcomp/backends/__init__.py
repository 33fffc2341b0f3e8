"""Ways out: each takes an optimized Program and makes something that runs."""
