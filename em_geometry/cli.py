"""The `em-geometry` command: what is no stage of the graph.

Each subcommand imports what it needs when it runs, so that `em-geometry --help` is quick.
"""
