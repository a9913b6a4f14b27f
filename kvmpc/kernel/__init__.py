"""What owns kernel objects, and the only callers of libc."""
