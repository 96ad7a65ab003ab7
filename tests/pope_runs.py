"""RUN folders of POPE with known answers, for tests of reports."""

import json


def pope_records(method, rights, group="coco/random", decoding="greedy", seed=None, **more):
    made = []
    for i, right in enumerate(rights):
        label = "yes" if i % 2 else "no"
        answer = label if right else {"yes": "no", "no": "yes"}[label]
        made.append(
            {
                "id": f"{group}/{i}",
                "image": f"{i // 6}.jpg",
                "group": group,
                "truth": {"label": label},
                "answer": answer,
                "method": method,
                "decoding": decoding,
                "seed": seed,
                "seconds": 0.5,
                **more,
            }
        )
    return made


def write(folder, records, **info):
    folder.mkdir(parents=True, exist_ok=True)
    known = {"benchmark": "pope", "model": "llava-hf/llava-1.5-7b-hf", "protocol": "llava", **info}
    (folder / "run.json").write_text(json.dumps(known))
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def two_methods(folder):
    """Plain right in three of four of 120 answers, CLVA in seven of eight, each where plain is and in half of the others."""
    plain, better = [i % 4 > 0 for i in range(120)], [i % 8 > 0 for i in range(120)]
    return write(folder, pope_records("none", plain) + pope_records("clva", better))
