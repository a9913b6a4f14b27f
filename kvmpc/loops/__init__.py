"""The measured path on the host: assembly, its records, its steps, its clock."""
