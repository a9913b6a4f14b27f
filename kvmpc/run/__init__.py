"""What plans and runs many trials on this host."""
