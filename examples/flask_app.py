"""A service of Flask, whose threads share one engine.

MODEL=model.txt flask --app examples/flask_app.py run
"""

import atexit
import os

from flask import Flask, Response, abort, jsonify, request

import engine

model = engine.load_model(os.environ["MODEL"])
eng = engine.Engine(model, default=0.5, deadline_ms=20, expired="answer")
atexit.register(eng.close)
app = Flask(__name__)


@app.post("/risk")
def risk() -> Response:
    row = request.get_json()
    if unknown := set(row) - set(model.feature_names or ()):
        abort(422, f"unknown: {', '.join(sorted(unknown))}")
    deadline_ms = request.args.get("deadline_ms", 20.0, type=float)
    answer = eng.predict([row.get(name) for name in model.feature_names or ()], deadline_ms=deadline_ms)
    return jsonify(answer.as_dict())


@app.get("/stats")
def stats() -> Response:
    return jsonify(eng.stats()["answers"])
