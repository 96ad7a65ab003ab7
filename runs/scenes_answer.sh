#!/usr/bin/env bash
# Answers a bundled benchmark over held-out scenes with the bundled model; run again, it goes on where it stopped.
#
#     runs/scenes_answer.sh BENCHMARK NAME DECODING METHOD...      -> runs/out/scenes/BENCHMARK/NAME
#
# IMAGES scenes are asked about, the same ones whatever the benchmark and method. A sampled decoding is answered once for
# each of SEEDS, each seed in a folder of its own, NAME-SEED.
set -euo pipefail
cd "$(dirname "$0")/.."
benchmark=$1 name=$2 decoding=$3
shift 3
methods=()
for method in "$@"; do methods+=(--method "$method"); done
case $benchmark in # longer prompts and answers, smaller batches; POPE as `eval pope` asks it by default
  pope) how=(pope --batch-size 90) ;;
  chair) how=(chair:lemma=fixed --protocol clva --batch-size 50) ;;
  mme) how=(mme --protocol mme-official --batch-size 96) ;;
esac
out="${RUN:-runs/out}/scenes"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Memory that a growing cache gives back is asked for again a token later; keeping it saves a third of the time.
export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=4294967296
.venv/bin/vlm-anchors scenes export --out "$out/data" --images "${IMAGES:-100}"
answer() {
  .venv/bin/vlm-anchors eval "${how[@]}" --data "$out/data/$benchmark" --images "$out/data/images" "${methods[@]}" \
    --decoding "$decoding" "$@"
}
case $decoding in
  nucleus*) for seed in ${SEEDS:-0 1 2}; do answer --seed "$seed" --out "$out/$benchmark/$name-$seed"; done ;;
  *) answer --out "$out/$benchmark/$name" ;;
esac
