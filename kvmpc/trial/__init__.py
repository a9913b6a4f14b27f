"""What runs one trial: build, park, gate, watch, stop, verify, count."""
