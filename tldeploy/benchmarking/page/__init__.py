"""Reports for a person, out of the JSON ones: HTML files that stand alone, and Markdown to paste.

rendering.py        report.html and report.md, the templates, with what goes into them
engine_tables.py    what was measured; answer_tables.py: where answers are right; stage_tables.py: what was decided
engine_figures.py   the plots of what was measured; stage_figures.py: of what the stages recorded
comparing.py        comparison.html and comparison.md, likewise; the verb `compare`
markup.py           cells and tables; drawing.py: what all plots share; page.css: the looks
"""
