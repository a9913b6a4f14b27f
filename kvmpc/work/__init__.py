"""What one trial works on: records and arithmetic, no host, no kernel."""
