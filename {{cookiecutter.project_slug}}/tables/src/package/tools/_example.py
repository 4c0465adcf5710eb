"""Predict of a table of rows: python example.py FILE.csv ... (needs numpy and onnxruntime, nothing of the project)."""

import json
import sys
from itertools import islice

import numpy as np
import onnxruntime
from preprocessing import Unreadable, preprocess, read  # pyright: ignore[reportMissingImports]  (the file beside this)

TOGETHER = 1024  # rows
session = onnxruntime.InferenceSession(f"{sys.path[0]}/model.onnx")  # beside this one, too
about = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
names, kind = about["target"]["names"], about["target"]["kind"]
unread = 0
for path in sys.argv[1:]:
    done = 0
    try:
        rows = read(path, about)
        while part := list(islice(rows, TOGETHER)):
            predictions = np.asarray(session.run(None, preprocess(part, about))[0]).tolist()
            for number, (row, predicted) in enumerate(zip(part, predictions, strict=True), done):
                if kind == "classes":  # the most probable one
                    told = [f"{names[predicted.index(max(predicted))]} {max(predicted):.4f}"]
                elif kind == "labels":  # as many as reach their thresholds
                    found = zip(names, predicted, about["thresholds"], strict=True)
                    told = [f"{name} {probability:.4f}" for name, probability, least in found if probability >= least]
                else:
                    told = [f"{name} {value:.7g}" for name, value in zip(names, predicted, strict=True)]
                print(f"{row.get(about['id'], number)}: {', '.join(told) or 'no label'}")
            done += len(part)
    except (OSError, Unreadable, UnicodeError) as error:
        print(f"error: {error}", file=sys.stderr)
        unread += 1
sys.exit(1 if unread else 0)
