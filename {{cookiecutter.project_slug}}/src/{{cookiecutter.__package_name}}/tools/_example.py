"""Predict of image files: python example.py FILE ... (needs numpy, onnxruntime and pillow, nothing of the project)."""

import json
import sys

import numpy as np
import onnxruntime
from preprocessing import Unreadable, preprocess  # pyright: ignore[reportMissingImports]  (the file beside this one)

session = onnxruntime.InferenceSession(f"{sys.path[0]}/model.onnx")  # beside this one, too
about = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
names, kind = about["target"]["names"], about["target"]["kind"]
unread = 0
for path in sys.argv[1:]:
    try:
        predicted = np.asarray(session.run(None, {"images": preprocess(path)[None]})[0])[0].tolist()
    except Unreadable as error:
        print(f"error: {error}", file=sys.stderr)
        unread += 1
        continue
    if kind == "classes":  # the most probable one
        told = [f"{names[predicted.index(max(predicted))]} {max(predicted):.4f}"]
    elif kind == "labels":  # as many as reach their thresholds
        found = zip(names, predicted, about["thresholds"], strict=True)
        told = [f"{name} {probability:.4f}" for name, probability, least in found if probability >= least]
    else:
        told = [f"{name} {value:.7g}" for name, value in zip(names, predicted, strict=True)]
    print(f"{path}: {', '.join(told) or 'no label'}")
sys.exit(1 if unread else 0)
