#!/usr/bin/env bash
# Continued pretraining of ByT5-small on a Cloud TPU VM pod, everything in a bucket. Run it from the checkout, here:
#   launch/tpu_vm.sh bucket && launch/tpu_vm.sh create && launch/tpu_vm.sh install && launch/tpu_vm.sh train
#   launch/tpu_vm.sh delete
# Every variable below can be set in the environment instead.
set -euo pipefail

: "${NAME:=mrt5}"
: "${ZONE:=us-west4-a}"
: "${ACCELERATOR:=v5litepod-64}"       # v5p: v5p-128 (64 chips); v6e: v6e-64
: "${RUNTIME:=v2-alpha-tpuv5-lite}"    # v5p: v2-alpha-tpuv5; v6e: v2-alpha-tpuv6e
: "${BUCKET:=gs://my-mrt5}"            # in the TPUs' region; or s3://...
: "${TEXT_FILES:=$BUCKET/mc4/*.json.gz}"
: "${WARM_START:=$BUCKET/byt5_small}"  # mrt5 convert hf-import byt5-small gs://my-mrt5/byt5_small
: "${MODEL_DIR:=$BUCKET/runs/mrt5_small}"

on_every_host() {
  gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="$1"
}

bucket() {
  gcloud storage buckets create "$BUCKET" --location="${ZONE%-*}" --uniform-bucket-level-access
}

create() {
  gcloud compute tpus tpu-vm create "$NAME" --zone="$ZONE" --accelerator-type="$ACCELERATOR" --version="$RUNTIME" \
    --scopes=https://www.googleapis.com/auth/cloud-platform
}

install() {
  tar --exclude=.git --exclude=.venv --exclude=runs -czf /tmp/mrt5.tar.gz .
  gcloud compute tpus tpu-vm scp /tmp/mrt5.tar.gz "$NAME":/tmp/ --zone="$ZONE" --worker=all
  on_every_host "set -e
    sudo apt-get update -q && sudo apt-get install -qy python3.11-venv
    mkdir -p mrt5 && tar -xzf /tmp/mrt5.tar.gz -C mrt5 && cd mrt5
    python3.11 -m venv .venv && .venv/bin/pip install -q -c constraints.txt '.[tpu,gcs,s3]'"
}

train() {
  # Exit code 75 says: saved, start me again. All hosts leave, and come back, together.
  on_every_host "cd mrt5 && while :; do
      code=0
      .venv/bin/mrt5 train --cluster --gin_file=runs/continued_pretraining.gin \
        --gin.MODEL_DIR=\"'$MODEL_DIR'\" --gin.TEXT_FILES=\"'$TEXT_FILES'\" \
        --gin.config.RunConfig.warm_start=\"'$WARM_START'\" || code=\$?
      [ \$code = 75 ] || exit \$code
    done"
}

delete() {
  gcloud compute tpus tpu-vm delete "$NAME" --zone="$ZONE"
}

case "${1:-}" in
  bucket | create | install | train | delete) "$1" ;;
  *) sed -n '2,5p' "$0" >&2; exit 2 ;;
esac
