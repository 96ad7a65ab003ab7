"""One record as a scorer sees it."""


def record(key, answer, /, image="1.jpg", group="g", question="?", **truth):
    return {"id": str(key), "image": image, "group": group, "truth": truth, "answer": answer, "question": question}
