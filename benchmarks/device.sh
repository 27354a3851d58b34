#!/usr/bin/env bash
# All that is to be measured on a machine with an accelerator, in one call:
#   bash benchmarks/device.sh OUT [COCO_ROOT]
# tests, benchmarks, quickstart's training, and, where COCO_ROOT has annotations/instances_{train,val}.json and images/,
# training and evaluation of the full network on it (STEPS images, default 20000). Everything lands in OUT.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: bash benchmarks/device.sh OUT [COCO_ROOT]}
coco=${2:-}
steps=${STEPS:-20000}
python=${PYTHON:-python3}
mkdir -p "$out"
export PYTHONPATH=.

say() { echo "== $*" | tee -a "$out/summary.txt"; }
measure() { # NAME COMMAND...: output to OUT/NAME.txt, the exit code to the summary
    local name=$1
    shift
    local begin=$SECONDS
    "$@" >"$out/$name.txt" 2>&1
    say "$name: exit $? after $((SECONDS - begin)) s: $*"
}

$python -c 'import jax; print(jax.__version__, jax.devices())' | tee "$out/summary.txt"
measure tests $python -m pytest -q -n 4
measure windows $python benchmarks/windows.py
measure bodies $python benchmarks/bodies.py
measure step_float32 $python benchmarks/step.py --config configs/coco.py --batch 1 4 8
measure step_bfloat16 $python benchmarks/step.py --config configs/coco.py:bfloat16 --batch 1 4 8
[ -e datasets/shapes/records/val/index.npz ] || measure draw_shapes $python prepare.py shapes --overwrite
measure train_shapes $python train.py --config configs/shapes.py --workdir "$out/shapes"
measure evaluate_shapes $python evaluate.py --config configs/shapes.py --workdir "$out/shapes"
if [ -n "$coco" ]; then
    val=(--annotations "$coco/annotations/instances_val.json" --images "$coco/images")
    measure records $python prepare.py coco --annotations "$coco/annotations/instances_train.json" \
        --images "$coco/images" --out "$out/records" --overwrite
    measure train_coco $python train.py --config configs/coco.py:bfloat16 --workdir "$out/coco" \
        --config.data.records="$out/records/train" --config.train.images="$steps" --config.train.batch_size=4 \
        --config.data.workers=8
    measure evaluate_coco $python evaluate.py --config configs/coco.py:bfloat16 --workdir "$out/coco" "${val[@]}"
fi
cat "$out/summary.txt"
