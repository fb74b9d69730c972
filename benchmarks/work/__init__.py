"""What runs in an arm's own processes, so that CPU and memory are its own: `python -m benchmarks.work TASK FILES`."""
