"""What is wrong with a model repository, anybody's, said before a server refuses it. Read-only: no session is made.

rules.py       every rule with its severity, and what a finding is
layout.py      where each field of a config.pbtxt stands; braces that do not close
reading.py     the text to a configuration, with every mistake of the text named
graph.py       what an ONNX file declares, without its weights
models.py      a model folder as the server would see it
files.py, tensors.py, running.py, ensembles.py      the rules, a file a family
check.py       all of it over a repository; mending.py writes the fixes that are safe
"""
