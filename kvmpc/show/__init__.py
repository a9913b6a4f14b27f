"""What shows: tables, formats, KTAP; page/ is the HTML page."""
