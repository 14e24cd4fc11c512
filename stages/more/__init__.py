"""The experiments of neighbouring papers, a module each; `more.experiments` names those that run.

A module's `main(params)` writes its raw outcomes to the folder data/more/<experiment>/ and its
results to plots/tables/<experiment>.csv and metrics/<experiment>.json.
"""
