"""Where a missing page's bytes come from."""
