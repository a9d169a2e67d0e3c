#!/usr/bin/env bash
# Everything with curl (7.84 or newer) alone: bash examples/curl.sh COLLECTION PICTURE...
#
# Makes the collection, embeds the pictures, searches it for the first of them, clusters it, and writes what it finds:
# neighbors.csv, neighbors.png, clusters.csv. IMAGEKIN_URL and IMAGEKIN_API_KEY name the server and your key.
set -euo pipefail

collection=$1
shift
server=${IMAGEKIN_URL:-http://127.0.0.1:8000}

# Ask the server; the key goes through a file descriptor, since everybody can read a process's arguments.
ask() {
    curl --silent --show-error --fail-with-body --retry 5 --config <(
        if [ -n "${IMAGEKIN_API_KEY:-}" ]; then echo "header = \"Authorization: Bearer $IMAGEKIN_API_KEY\""; fi
    ) "$@"
}

# Post a job, wait for its end, and leave its address in $job.
run() {
    job=$server$(ask --output /dev/null --write-out '%header{location}' "$@")
    local answer
    while true; do
        # what curl has tried five times in vain ends the script: a key that was revoked, a job that was deleted
        answer=$(ask --header 'Prefer: wait=20' "$job") || { echo "$answer" >&2; exit 1; }
        if grep -Eq '"status": ?"(succeeded|partial|failed|cancelled)"' <<<"$answer"; then return; fi
        sleep 1
    done
}

ask --output /dev/null --no-show-error "$server/v1/collections/$collection" ||
    ask --output /dev/null "$server/v1/collections" --json "{\"name\": \"$collection\"}"

files=()
for picture in "$@"; do
    files+=(--form "images=@$picture")
done
# The same key and the same pictures are the same job, however often this is repeated.
run "$server/v1/jobs/embed" --header "Idempotency-Key: $collection-$(cksum "$@" | cksum | tr ' ' -)" \
    --form "collection=$collection" "${files[@]}"
ask --write-out '\n' "$job/result" "$job/items?status=failed"

run "$server/v1/jobs/search" --form "collection=$collection" --form "image=@$1" --form top_k=5
ask --header 'Accept: text/csv' --output neighbors.csv "$job/result"
ask --output neighbors.png "$job/sheet"

run "$server/v1/jobs/cluster" --json "{\"collection\": \"$collection\", \"n_clusters\": 2}"
ask --header 'Accept: text/csv' --output clusters.csv "$job/result"
