"""What S3 has and other object stores have not."""
