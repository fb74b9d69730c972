"""Tasks in processes of their own, so that their CPU is measured: `python -m benchmarks.work TASK FILES`."""
