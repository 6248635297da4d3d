#!/usr/bin/env bash
# Made by gemstead render cloudrun from gemstead.yaml; change that file and render again.
# Run once, by someone who may make accounts and give rights; every line can be run again.
set -euo pipefail
project="acme-llm" region="europe-west4" runs="gemstead@acme-llm.iam.gserviceaccount.com" builds="gemstead-build@acme-llm.iam.gserviceaccount.com"
state="${1:?usage: ./setup.sh STATE_DIR, the state_dir in which gemstead keys create made keys}"
once() { # make what may be there already
  local said; said="$("$@" 2>&1)" || { case "$said" in *"already exists"* | *ALREADY_EXISTS* | *"409"*) ;; *) printf "%s\n" "$said" >&2; return 1 ;; esac; }
}

gcloud services enable run.googleapis.com cloudbuild.googleapis.com artifactregistry.googleapis.com \
  secretmanager.googleapis.com storage.googleapis.com compute.googleapis.com --project "$project"

# Two accounts: one that instances run as, one that builds and deploys. Neither has a role in all the project
# but for writing logs, deploying services and submitting builds.
once gcloud iam service-accounts create "${runs%%@*}" --project "$project"
once gcloud iam service-accounts create "${builds%%@*}" --project "$project"
for role in roles/logging.logWriter roles/run.developer; do
  gcloud projects add-iam-policy-binding "$project" --member "serviceAccount:$builds" --role "$role" \
    --condition None --quiet >/dev/null
done
gcloud iam service-accounts add-iam-policy-binding "$runs" --project "$project" \
  --member "serviceAccount:$builds" --role roles/iam.serviceAccountUser --quiet >/dev/null

once gcloud artifacts repositories create "gemstead" --repository-format docker \
  --location "$region" --project "$project"
gcloud artifacts repositories add-iam-policy-binding "gemstead" --location "$region" \
  --project "$project" --member "serviceAccount:$builds" --role roles/artifactregistry.writer \
  --quiet >/dev/null

# Weights and secrets do not cross the internet.
gcloud compute networks subnets update "default" --region "$region" --project "$project" \
  --enable-private-ip-google-access

# Each secret is readable by who needs it, and by nobody else.
for secret in gemstead-gemma-4-e4b-settings gemstead-keys gemstead-pepper; do
  once gcloud secrets create "$secret" --replication-policy user-managed --locations "$region" \
    --project "$project"
done
for secret in gemstead-gemma-4-e4b-settings gemstead-keys gemstead-pepper; do
  gcloud secrets add-iam-policy-binding "$secret" --project "$project" --member "serviceAccount:$runs" \
    --role roles/secretmanager.secretAccessor --quiet >/dev/null
done
gcloud secrets add-iam-policy-binding "gemstead-gemma-4-e4b-settings" --project "$project" \
  --member "serviceAccount:$builds" --role roles/secretmanager.secretVersionAdder --quiet >/dev/null
# What was applied, so that `gemstead apply cloudrun --rollback` can go back.
once gcloud secrets create "gemstead-applied" --replication-policy user-managed \
  --locations "$region" --project "$project"
gcloud secrets versions add "gemstead-keys" --data-file "$state/keys.db" --project "$project"
gcloud secrets versions add "gemstead-pepper" --data-file "$state/pepper" --project "$project"
