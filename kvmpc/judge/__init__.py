"""What judges numbers: rows, cautions, same host, regression, answer."""
