"""What the VM is made of: memory, backing, bitmap, boot state, its record."""
