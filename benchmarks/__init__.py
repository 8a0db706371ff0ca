"""What is claimed about speed, measured: each module prints a table, baseline and ours interleaved in one run."""
