"""What runs a model repository elsewhere: an image, a Helm chart, a KServe InferenceService.

needs.py       what the repository asks of whoever runs it: packages, GPUs, cores, memory
docker.py      a Dockerfile for NVIDIA's image with the repository in it
helm.py        a chart for that image; chart/ has its templates, as they are written
kserve.py      an InferenceService, for a cluster that has KServe
writing.py     the files of one of these into a folder, none of somebody else's overwritten
"""
