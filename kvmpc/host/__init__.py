"""Facts and limits of this machine, read from its files."""
