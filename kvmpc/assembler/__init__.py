"""Text to checked machine code; knows nothing of kvmpc."""
