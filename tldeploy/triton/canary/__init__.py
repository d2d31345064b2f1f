"""A canary: another model that answers a share of a live one's requests, until one of the two is kept.

parts.py        what it adds to the repository, and how that is read back
split_step.py   the step that draws which of the two answers, and counts what it finds; runs in a worker
lifecycle.py    start, another share, promote, drop: each by ordinary transactions
comparison.py   what running servers counted
"""
