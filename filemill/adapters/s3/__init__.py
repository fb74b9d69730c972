"""S3: obstore for the workers' fast path, boto3 for everything else."""
