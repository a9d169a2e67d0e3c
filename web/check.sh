#!/bin/sh
# Fails if the page that is built into the package is not what its sources make. Without Node 18 it says that it checked
# nothing; where the variable CI is set, it fails then, too.
set -eu
cd "$(dirname "$0")"

unchecked() {
    if [ -n "${CI:-}" ]; then
        echo "The page cannot be checked: $1." >&2
        exit 1
    fi
    echo "Skipped: whether the built page is that of web/src, for $1." >&2
    exit 0
}

command -v node >/dev/null && command -v npm >/dev/null || unchecked 'there is no Node 18 with npm here'
[ "$(node -p 'process.versions.node.split(".")[0]')" -ge 18 ] || unchecked "Node $(node --version) is older than 18"
# what npm ci installed last, if it is still what is wanted
if ! cmp -s package-lock.json node_modules/.for; then
    npm ci --no-audit --no-fund --loglevel=error || unchecked 'npm could not install what builds it'
    cp package-lock.json node_modules/.for
fi
npm run --silent types
built=$(mktemp -d)
trap 'rm -rf "$built"' EXIT
node build.mjs "$built"
if ! diff -rq "$built" ../api/imagekin_api/web/static/app; then
    echo 'The built page is stale: run `make page` and commit what it writes.' >&2
    exit 1
fi
echo 'The built page is that of web/src.'
