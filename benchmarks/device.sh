#!/usr/bin/env bash
# Runs all measurements on this machine's devices:
#   bash benchmarks/device.sh OUT [COCO_ROOT]
# These are the tests of the computation, the benchmarks, the training of the quickstart and, if COCO_ROOT has the layout
# of docs/train_coco.md, training and evaluation of the full network on COCO. All output goes to OUT. If a step fails, the
# exit status is 1 and the last line names the failed steps.
#
#   IMAGES=20000            number of training images of the full network
#   ONLY="tests benchmarks"    run only these steps
#   PYTHON=python3
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: bash benchmarks/device.sh OUT [COCO_ROOT]}
coco=${2:-}
python=${PYTHON:-python3}
mkdir -p "$out"
export PYTHONPATH=.
failed=()

say() { echo "$*" | tee -a "$out/summary.txt"; }
measure() { # NAME COMMAND...: output to OUT/NAME.txt, the exit status to the summary
    local name=$1 begin=$SECONDS status
    shift
    [[ " ${ONLY:-$name} " == *" $name "* ]] || return 0
    "$@" >"$out/$name.txt" 2>&1
    status=$?
    say "$name: exit $status after $((SECONDS - begin)) s: $*"
    [ "$status" = 0 ] || failed+=("$name")
}

: >"$out/summary.txt"
# The platform's name for JAX_PLATFORMS; the summary also lists the devices.
devices='
import jax
device = jax.devices()[0]
platform = device.platform
if platform == "gpu":
    platform = "rocm" if "rocm" in device.client.platform_version.lower() else "cuda"
print(platform, jax.__version__, jax.devices())'
described=$($python -c "$devices") || { echo "JAX does not start: $python -c 'import jax; jax.devices()'"; exit 1; }
say "$described"
platform=${described%% *}

# The tests run on the devices; by default, tests/conftest.py selects the CPU. Products are computed in float32, not in
# TF32 or bfloat16, because the tests compare with float64. One process only, because a process takes the whole TPU.
measure tests env JAX_PLATFORMS="$platform" JAX_DEFAULT_MATMUL_PRECISION=float32 $python -m pytest -q \
    tests/test_{fastmask,step,norms,windows,neck,losses,optimizer,literal_training,checkpoints,weights_bundled}.py
measure benchmarks $python benchmarks/all.py --out "$out/benchmarks" --batch 1 4 8
[ -e datasets/shapes/records/val/index.npz ] || measure draw_shapes $python prepare.py shapes --overwrite
measure train_shapes $python train.py --config configs/shapes.py --workdir "$out/shapes"
measure evaluate_shapes $python evaluate.py --config configs/shapes.py --workdir "$out/shapes"
if [ -n "$coco" ]; then
    val=(--annotations "$coco/annotations/instances_val2014.json" --images "$coco/val2014")
    [ -e "$out/records/train/index.npz" ] || measure records $python prepare.py coco2014 --root "$coco" --out "$out/records"
    measure train_coco $python train.py --config configs/coco.py:bfloat16 --workdir "$out/coco" \
        --config.data.records="$out/records/train" --config.train.images="${IMAGES:-20000}" \
        --config.train.batch_size=4 --config.data.workers=8
    measure evaluate_coco $python evaluate.py --config configs/coco.py:bfloat16 --workdir "$out/coco" "${val[@]}" --limit 5000
fi
if [ ${#failed[@]} != 0 ]; then
    say "failed: ${failed[*]}"
    exit 1
fi
