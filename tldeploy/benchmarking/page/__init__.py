"""The report for a person: one HTML file, out of the JSON one.

rendering.py    report.html as a template, the words and figures that go into it
tables.py       its tables, built of markup.py
figures.py      its plots
page.css        its looks
"""
