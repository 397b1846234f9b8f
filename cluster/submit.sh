#!/usr/bin/env bash
# Submit one verb of this checkout as a Ray job and follow its log:
#
#   cluster/submit.sh [--id NAME] VERB CONFIG [ARGUMENT]...
#   cluster/submit.sh extract configs/extract.yaml --store s3://bucket/out
#
# The cluster is RAY_API_SERVER_ADDRESS (default http://127.0.0.1:8265). A NAME can run only once per cluster, so that
# a submission repeated by mistake is refused. Paths in arguments are seen from the root of the checkout.
set -euo pipefail

refuse() {
  echo "submit.sh: $1" >&2
  exit 2
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."

submission=()
if [[ ${1:-} == --id ]]; then
  [[ -n ${2:-} ]] || refuse "--id wants a name"
  submission=(--submission-id "$2")
  shift 2
fi

verb=${1:-}
[[ $verb =~ ^[a-z_]+$ && -f jobs/$verb.py ]] || refuse "'$verb' is no verb: there is no jobs/VERB.py of that name"
shift

export RAY_API_SERVER_ADDRESS=${RAY_API_SERVER_ADDRESS:-http://127.0.0.1:8265}
exec ray job submit --working-dir . "${submission[@]}" -- python "jobs/$verb.py" "$@"
