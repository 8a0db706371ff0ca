"""A Fair server of one's own: the HTTP API that the `faircompute` client speaks, over programs of this machine.

`python -m fair_server --help` tells how to start one.
"""
