"""The bench stage: every engine on the same held-out rows, in one interleaved run.

bench.py    the stage: it runs the scenarios of tldeploy.measuring and writes the artifact
report.py   report.json (its schema: report.schema.json), and the table for a terminal
page/       report.html, which a person reads
"""
