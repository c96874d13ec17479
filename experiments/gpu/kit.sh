#!/bin/bash
# The commands of README.md: bash experiments/gpu/kit.sh prepare | look | data | study | collect
set -u
kit=$PWD/build/kit                # what is carried along
W=${W:-/dev/shm/resnet-cifar}     # lasts from one command to the next
PY=${PY:-python3}

prepare() {  # where there is a network: the packages that the machine lacks
  local lacking="hydra-core omegaconf msgspec" python=${1:-3.12}
  mkdir -p "$kit/wheels"
  $PY -m pip wheel -q --no-deps -w "$kit/wheels" antlr4-python3-runtime==4.9.3 &&
    $PY -m pip download -q --no-deps -d "$kit/wheels" -c constraints.txt --only-binary=:all: \
      --implementation cp --python-version "$python" --platform manylinux2014_x86_64 \
      --platform manylinux_2_28_x86_64 $lacking && ls "$kit/wheels"
}

begin() {  # every command on the machine
  export PYTHONUNBUFFERED=1 PYTHONPATH=$W/site:$PWD
  export TORCHINDUCTOR_CACHE_DIR=$W/inductor TRITON_CACHE_DIR=$W/triton
  mkdir -p "$W/data" "$OUT"
  [ -d "$W/site" ] || $PY -m pip install -q --no-index --no-deps --no-compile --target "$W/site" \
    "$kit"/wheels/*.whl || exit 1
  for part in "$kit"/data/*; do  # a part of the data, once
    [ -f "$part" ] && [ ! -e "$W/data/.$(basename "$part")" ] || continue
    if [ -f "$kit/unpack.py" ]; then $PY "$kit/unpack.py" "$W/data" "$part"
    else cat "$part" >> "$W/data/cifar-10-python.tar.gz"; fi || exit 1
    touch "$W/data/.$(basename "$part")"
  done
  echo "$SECONDS s: packages and data ($(ls "$W/data" | tr '\n' ' '))"
}

look() {  # SMOKE: more arguments; BENCHMARK: others than these
  { nproc; lscpu | grep 'Model name'; df -h "$W"; command -v gcc nvidia-cuda-mps-control
    $PY -c 'import sys, torch; print(sys.version, torch.__version__, torch.cuda.is_available())'
    nvidia-smi; } > "$OUT/machine.txt" 2>&1
  head -8 "$OUT/machine.txt"
  timeout 100 $PY train.py data=synthetic data.train_size=5184 data.val_size=1000 \
    trainer.epochs=3 trainer.progress=plain output_root="$W/smoke" ${SMOKE:-} > "$OUT/smoke.txt" 2>&1
  echo "$SECONDS s: smoke run, exit code $?"; tail -4 "$OUT/smoke.txt"
  timeout 75 $PY -m benchmarks.gpu --seconds 45 --out "$OUT/gpu.json" \
    ${BENCHMARK:---modes captured captured-compiled compiled --runs 1 3} 2>&1 |
    tee "$OUT/gpu.txt"
  echo "$SECONDS s: benchmark"
}

study() {  # MINUTES AT_ONCE [OVERRIDES]; STUDY: more options of run_study.py; MPS=1
  local minutes=$1 at_once=$2
  mkdir -p "$W/project"  # what the next command changes in the working tree changes nothing here
  cp -r train.py conf hydra_plugins resnet_cifar experiments "$W/project"
  if [ "${MPS:-0}" = 1 ]; then  # CUDA's Multi-Process Service: kernels of several runs overlap
    export CUDA_MPS_PIPE_DIRECTORY=$W/mps CUDA_MPS_LOG_DIRECTORY=$W/mps
    mkdir -p "$W/mps"
    nvidia-cuda-mps-control -d && echo "MPS on"
  fi
  cd "$W/project" && export PYTHONPATH=$W/site:$W/project || exit 1
  setsid nohup $PY experiments/run_study.py --minutes "$minutes" --at-once "$at_once" \
    --to "$W/study.tar.gz" ${STUDY:-} -- output_root="$W/runs" data.root="$W/data" \
    data.download=false trainer.checkpoint_epochs=1000 "${@:3}" > "$W/study.log" 2>&1 < /dev/null &
  echo $! > "$W/study.pid"
  collect $((${LIMIT:-590} - SECONDS))
}

collect() {  # SECONDS to wait for the study's end at most; WEIGHTS: a cell's directory to carry
  local until=$((SECONDS + $1 - 10)) pid
  pid=$(cat "$W/study.pid")
  while [ $SECONDS -lt $until ] && kill -0 "$pid" 2> /dev/null; do sleep 1; done
  kill -0 "$pid" 2> /dev/null && echo "it still runs: collect again"
  cp "$W/study.log" "$OUT" && cat "$OUT/study.log"
  [ -f "$W/study.tar.gz" ] && split -b 15M "$W/study.tar.gz" "$OUT/study.tar.gz."
  for weights in "$W"/runs/${WEIGHTS:-none}/seed=0/last.pt; do
    [ -f "$weights" ] && split -b 15M "$weights" "$OUT/last.pt."
  done
  ls -l "$OUT"
}

case "${1:-}" in
  prepare) prepare "${@:2}" ;;
  look | data | study | collect)
    : "${OUT:?set it to the folder that comes back}"
    begin; [ "$1" = data ] || "$@" ;;
  *) sed -n 2p "$0"; exit 2 ;;
esac
