#!/bin/sh
# A signed request: CLAUDEGATE_URL, CLAUDEGATE_KEY and CLAUDEGATE_SIGNING_SECRET from the environment.
#   sh sign.sh POST /api/chat '{"message":"Hello"}'
set -eu
method=$1 target=$2 body=${3:-}

time=$(date +%s)
nonce=$(openssl rand -hex 16)
hash=$(printf %s "$body" | openssl dgst -sha256 -r | cut -d' ' -f1)
mac=$(printf 'v1\n%s\n%s\n%s\n%s\n%s' "$time" "$nonce" "$method" "$target" "$hash" |
    openssl dgst -sha256 -r -hmac "$CLAUDEGATE_SIGNING_SECRET" | cut -d' ' -f1)
set -- -sS --fail-with-body -X "$method" "$CLAUDEGATE_URL$target" \
    -H "Authorization: Bearer $CLAUDEGATE_KEY" -H "Content-Type: application/json" \
    -H "X-Claudegate-Signature: t=$time,n=$nonce,v1=$mac"
[ -z "$body" ] || set -- "$@" --data-binary "$body"
curl "$@"
