"""Everything about Triton, and nothing of torch: configurations, the repository, the server and its home.

config.py        config.pbtxt as protobuf, from the graph
repository.py    publish an export as a versioned model; transaction.py makes that atomic
checking.py      try a version in a server of its own before it is live; candidate.py is one version by itself
running.py       servers that run on a repository take another version; following.py: one that nobody has told looks
keeping.py       roll back to an older version, verify every hash; lineage.py traces a served graph to its recipe
fitting/         how a model is best run on this machine, by measuring
lint/            what is wrong with anybody's repository
tokenize_step.py the served tokenizing step; backends/ holds the server's Python backend for ONNX graphs
home.py          where tritonserver is, built from the pip wheel when there is none
placement.py     whether this machine has what the graphs of a repository run on
server.py        start it with flags.py, and stop it; process.py and warden.py see that it never outlives us
watch.py         replaces workers that die or hang (workers.py); log.py reads what the server says
gate.py          what stands before a server that others can reach; envoy.py tells Envoy to be that
"""
