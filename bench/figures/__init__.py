"""What the READMEs and the pages of bench/results show of recorded runs: functions of a record, and of nothing else.

`tables` are what stands between markers; `said` are the sentences, or the parts of one, in which prose tells figures.
bench/readme.py writes the former and looks for the latter.
"""
