"""A Fair server of your own: it speaks the HTTP API of the `faircompute` client and runs programs on this machine.

`python -m fair_server --help` tells how to start one.
"""
