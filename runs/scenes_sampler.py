"""Fits the sampler of object sets to COCO's counts and reports the fit.

python runs/scenes_sampler.py count OBJECTS.json    {"image": [names]} -> data/coco_counts.json
python runs/scenes_sampler.py fit                   data/coco_counts.json -> data/coco_sampler.json
python runs/scenes_sampler.py report                -> results/scenes_sampler_fit.json
"""

import itertools
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from vlm_anchors.scenes import coco

RESULTS = Path(__file__).parent.parent / "results"
N = len(coco.CATEGORIES)


def count(path: str) -> None:
    """Counts sets of 1..8 categories; the whole histogram of sizes is kept beside them."""
    sets = [sorted({coco.CATEGORIES.index(x) for x in names}) for names in json.loads(Path(path).read_text()).values()]
    kept = [s for s in sets if 1 <= len(s) <= coco.MOST]
    single = Counter(i for s in kept for i in s)
    pairs = Counter(pair for s in kept for pair in itertools.combinations(s, 2))
    table = {
        "what": "images of COCO train2014 and val2014 by the categories they hold (segments and captions together)",
        "source": "COCO 2014 annotations, https://cocodataset.org, by way of the object lists of the CHAIR metric",
        "licence": "CC BY 4.0, https://creativecommons.org/licenses/by/4.0/; counted from it, no annotation is copied",
        "restricted_to": f"images with 1 to {coco.MOST} categories",
        "images": len(kept),
        "all_sizes": dict(sorted(Counter(map(len, sets)).items())),
        "sizes": dict(sorted(Counter(map(len, kept)).items())),
        "names": list(coco.CATEGORIES),
        "single": [single[i] for i in range(N)],
        "pairs": [[pairs[i, j] for j in range(i + 1, N)] for i in range(N - 1)],
    }
    write(coco.DATA / "coco_counts.json", table)


def write(path: Path, table: dict) -> None:
    """One key a line: small diffs without a line for each of 3,160 pairs."""
    lines = ",\n".join(
        f" {json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in table.items()
    )
    path.write_text("{\n" + lines + "\n}\n")


def moments() -> tuple[np.ndarray, np.ndarray]:
    """COCO's pair frequencies (80 x 80, singles on the diagonal) and size frequencies (0..9)."""
    table = coco.counts()
    pairs = np.array(table["pairs"], dtype=float) + np.diag(table["single"])
    sizes = np.array([table["sizes"].get(str(k), 0) for k in range(coco.MOST + 2)], dtype=float)
    return pairs / table["images"], sizes / table["images"]


def sweep(state: np.ndarray, bias: np.ndarray, pair: np.ndarray, size: np.ndarray, rng) -> None:
    """One sweep of Gibbs sampling in place; state (80, chains)."""
    total, steps = state.sum(0).astype(int), np.diff(size)
    for i in range(N):
        total -= state[i].astype(int)
        field = bias[i] + pair[i] @ state + steps[total]
        state[i] = (rng.random(state.shape[1]) < 1 / (1 + np.exp(-field))) | (total == 0)
        total += state[i].astype(int)


def fit(chains: int = 16000, rounds: int = 5000) -> None:
    """Persistent chains; each parameter moves by the log ratio of the wanted to the running moment."""
    rng, (want, want_size) = np.random.default_rng(0), moments()
    single = want.diagonal()
    bias, pair = np.log(single / (1 - single)), np.zeros((N, N))
    size = np.zeros(coco.MOST + 2)
    state = np.zeros((N, chains), dtype=np.float32)
    state[rng.choice(N, chains, p=single / single.sum()), np.arange(chains)] = 1
    have, have_size = want.copy(), want_size.copy()
    for step in range(rounds):
        size[-1] = size[-2] - 20.0  # nine categories never happen
        sweep(state, bias, pair.astype(np.float32), size, rng)
        keep = 0.8 if step < rounds // 2 else 0.95
        have = keep * have + (1 - keep) * (state @ state.T) / chains
        have_size = keep * have_size + (1 - keep) * np.bincount(state.sum(0).astype(int), minlength=10)[:10] / chains
        rate = 0.04 * min(1.0, 2.0 * (1 - step / rounds))
        move = np.log((want + 3e-5) / (have + 3e-5))
        bias += rate * move.diagonal()
        pair += 0.5 * rate * (move - np.diag(move.diagonal()))
        pair = np.clip(pair, -5, 5)
        size[1:9] += 0.5 * rate * np.log((want_size[1:9] + 1e-4) / (have_size[1:9] + 1e-4))
        if step % 500 == 0:
            print(step, f"singles {abs(move.diagonal()).mean():.4f} pairs {abs(have - want).sum() / 2:.4f}", flush=True)
    whole = np.rint(pair * coco.UNIT).astype(int)
    size[0] = size[1]  # a scene is never empty, so this step is never weighed
    write(
        coco.DATA / "coco_sampler.json",
        {
            "what": "pairwise maximum-entropy model of coco_counts.json, in 1/256 nat",
            "bias": np.rint(bias * coco.UNIT).astype(int).tolist(),
            "size": np.rint(size * coco.UNIT).astype(int).tolist(),
            "pair": [whole[i, i + 1 :].tolist() for i in range(N - 1)],
        },
    )


def report(scenes: int = 40000) -> None:
    """Draws scenes with the package's own sampler and sets them beside COCO."""
    state = coco.gibbs(list(range(scenes)), coco.parameters()).astype(float)
    (want, want_size), have = moments(), state @ state.T / scenes
    have_size = np.bincount(state.sum(0).astype(int), minlength=10)[:10] / scenes
    above = np.triu_indices(N, 1)
    noise = np.sqrt(want * (1 - want) / scenes)
    frequent = [(i, j) for i, j in zip(*above, strict=True) if want[i, j] >= 0.005]
    lift = [(np.log(want[p] / (want[p[0], p[0]] * want[p[1], p[1]])), np.log(have[p] / (have[p[0], p[0]] * have[p[1], p[1]])))
            for p in frequent]  # fmt: skip
    write(
        RESULTS / "scenes_sampler_fit.json",
        {
            "command": "python runs/scenes_sampler.py report",
            "scenes": scenes,
            "coco_images": coco.counts()["images"],
            "single_max_abs_difference": round(float(abs(have - want).diagonal().max()), 5),
            "single_mean_abs_difference": round(float(abs(have - want).diagonal().mean()), 5),
            "pair_correlation": round(float(np.corrcoef(want[above], have[above])[0, 1]), 5),
            "pair_max_abs_difference": round(float(abs(have - want)[above].max()), 5),
            "pair_total_variation_share": round(float(abs(have - want)[above].sum() / want[above].sum()), 4),
            "pair_share_expected_from_sampling_noise": round(float(0.798 * noise[above].sum() / want[above].sum()), 4),
            "frequent_pairs": len(frequent),
            "frequent_pairs_log_lift_correlation": round(float(np.corrcoef(np.array(lift).T)[0, 1]), 4),
            "sizes_coco": {k: round(float(want_size[k]), 4) for k in range(1, 9)},
            "sizes_scenes": {k: round(float(have_size[k]), 4) for k in range(1, 9)},
            "single_coco_scenes": {
                name: [round(float(want[i, i]), 4), round(float(have[i, i]), 4)]
                for i, name in enumerate(coco.CATEGORIES)
            },
        },
    )


if __name__ == "__main__":
    {"count": count, "fit": fit, "report": report}[sys.argv[1]](*sys.argv[2:])
