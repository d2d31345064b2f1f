"""The bench stage: every engine on the same held-out rows, in one interleaved run.

bench.py          the stage: it runs the scenarios of tldeploy.measuring and writes the artifact
report.py         report.json (its schema: report.schema.json), and the table for a terminal
placing.py        which execution provider runs the nodes of each engine
gate.py           what must not have got worse; comparison.py: two runs side by side; older.py reads recorded reports
capacity.py       how many replicas a traffic needs
page/             report.html, report.md and comparison.html, which a person reads
"""

# Of report.json, and of the artifact around it: one of another version is made again.
SCHEMA_VERSION = 3  # with parts, ECE of every engine, disagreements, report.md
