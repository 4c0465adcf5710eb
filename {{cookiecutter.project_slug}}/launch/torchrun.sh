#!/bin/bash
# launch/torchrun.sh [FLAG ...] in the project's folder: as many ranks as DEVICES; a rank that is killed comes back, three
# times. On several machines, on each: NODES=2 HEAD=HOST:29500 RUN_ID=NAME launch/torchrun.sh
set -eu

# Without it the ranks of a restart meet in the store of those before them, and half of the restarts fail or wait for ever.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
nodes=${NODES:-1} devices=${DEVICES:-2}
# By its id a restart finds its own run; several machines must share one.
if [ "$nodes" != 1 ]; then : "${RUN_ID:?the same name on all machines}"; fi
id=${RUN_ID:-$(hostname)-$$}
exec .venv/bin/torchrun --nnodes "$nodes" --nproc-per-node "$devices" --max-restarts 3 \
    --rdzv-backend c10d --rdzv-endpoint "${HEAD:-localhost:0}" --rdzv-id "$id" \
    -m {{ cookiecutter.__package_name }} fit --trainer.num_nodes "$nodes" --trainer.devices "$devices" --trainer.strategy ddp --resume auto "$@"
