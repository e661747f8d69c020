#!/usr/bin/env bash
# Continued pretraining of ByT5-small on TPUs of a GKE cluster, by XPK (pip install xpk). Run it from the checkout:
#   launch/gke_xpk.sh bucket && launch/gke_xpk.sh image && launch/gke_xpk.sh train
#   launch/gke_xpk.sh list; launch/gke_xpk.sh delete
# Every variable below can be set in the environment instead.
set -euo pipefail

: "${PROJECT:=my-project}"
: "${ZONE:=us-west4-a}"
: "${CLUSTER:=my-cluster}"             # xpk cluster create --cluster=... --tpu-type=... --num-slices=...
: "${TPU_TYPE:=v5litepod-64}"
: "${NUM_SLICES:=1}"
: "${WORKLOAD:=mrt5-small}"
: "${IMAGE:=us-docker.pkg.dev/$PROJECT/mrt5/mrt5:latest}"
: "${BUCKET:=gs://my-mrt5}"            # in the TPUs' region; the pods' service account may read and write it
: "${TEXT_FILES:=$BUCKET/mc4/*.json.gz}"
: "${WARM_START:=$BUCKET/byt5_small}"  # mrt5 convert hf-import byt5-small gs://my-mrt5/byt5_small
: "${MODEL_DIR:=$BUCKET/runs/mrt5_small}"

WHERE=(--cluster="$CLUSTER" --project="$PROJECT" --zone="$ZONE")

bucket() {
  gcloud storage buckets create "$BUCKET" --project="$PROJECT" --location="${ZONE%-*}" --uniform-bucket-level-access
}

image() {
  docker build --file launch/Dockerfile --build-arg PLATFORM=tpu --tag "$IMAGE" .
  docker push "$IMAGE"
}

train() {
  # A run that is asked to stop saves and exits with 75; the JobSet then starts all its pods again.
  xpk workload create "${WHERE[@]}" --workload="$WORKLOAD" --tpu-type="$TPU_TYPE" --num-slices="$NUM_SLICES" \
    --docker-image="$IMAGE" --max-restarts=100 --restart-on-user-code-failure --termination-grace-period-seconds=120 \
    --command="mrt5 train --cluster --gin_file=runs/continued_pretraining.gin \
      --gin.MODEL_DIR=\"'$MODEL_DIR'\" --gin.TEXT_FILES=\"'$TEXT_FILES'\" \
      --gin.config.RunConfig.warm_start=\"'$WARM_START'\""
}

list() { xpk workload list "${WHERE[@]}"; }

delete() { xpk workload delete "${WHERE[@]}" --workload="$WORKLOAD"; }

case "${1:-}" in
  bucket | image | train | list | delete) "$1" ;;
  *) sed -n '2,5p' "$0" >&2; exit 2 ;;
esac
