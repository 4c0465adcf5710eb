"""Classify image files: python example.py FILE ... (needs numpy, onnxruntime and pillow, nothing of the project)."""

import json
import sys

import numpy as np
import onnxruntime
from preprocessing import Unreadable, preprocess  # pyright: ignore[reportMissingImports]  (the file beside this one)

session = onnxruntime.InferenceSession(f"{sys.path[0]}/model.onnx")  # beside this one, too
classes = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
unread = 0
for path in sys.argv[1:]:
    try:
        probabilities_K = np.asarray(session.run(None, {"images": preprocess(path)[None]})[0])[0]
        print(f"{path}: {classes[probabilities_K.argmax()]} {probabilities_K.max():.4f}")
    except Unreadable as error:
        print(f"error: {error}", file=sys.stderr)
        unread += 1
sys.exit(1 if unread else 0)
