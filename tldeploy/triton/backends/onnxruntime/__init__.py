"""The pip-installed server's backend for ONNX graphs; `model.py` is copied into the server home."""
