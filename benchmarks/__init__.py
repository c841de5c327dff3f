"""Speed and quality, measured: each script prints a table for people and ends with one line of JSON."""
