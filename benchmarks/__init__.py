"""Measures the pipeline's rates against the raw limits of its parts and against peers, all in one run."""
