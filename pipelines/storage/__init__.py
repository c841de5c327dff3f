"""One storage interface over memory, local disk and S3."""
