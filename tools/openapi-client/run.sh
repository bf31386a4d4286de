#!/bin/sh
# Makes a client from api/openapi.json with openapi-typescript and openapi-fetch,
# compiles a program that uses it, and lets it call a real server.
set -eu
cd "$(dirname "$0")"
if ! command -v npm >/dev/null 2>&1; then
	echo "SKIPPED: there is no npm here, so no client was generated from api/openapi.json"
	exit 0
fi
if ! npm ci --no-audit --no-fund; then
	echo "SKIPPED: npm could not fetch its packages, so no client was generated from api/openapi.json"
	exit 0
fi
npx openapi-typescript ../../api/openapi.json -o schema.d.ts
npx tsc -p .
cd ../..
HAREPOST_GENERATED_CLIENT="$(pwd)/tools/openapi-client/out/call.js" \
	go test ./cmd/harepost -count=1 -v -run '^TestGeneratedClient$'
