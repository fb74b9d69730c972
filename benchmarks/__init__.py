"""What this pipeline does a second, beside the raw limits of its parts and beside its peers, all in one run."""
