"""What a result is: records, metrics, document, file, baselines."""
