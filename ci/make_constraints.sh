#!/bin/sh
# Writes ci/constraints.txt: exact versions with hashes, without addresses, without torch's hashes.
set -eu
pin=$(mktemp)
trap 'rm -f "$pin"' EXIT
echo 'torch==2.13.0' >"$pin"
UV_FIND_LINKS= .uv/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-header --no-annotate --extra dev --extra gpu -c "$pin" pyproject.toml |
    awk '
        /^[^ ]/ { skip = ($0 ~ /^torch==/); if (skip) { sub(/ *\\$/, ""); print; next } }
        !skip { print }
    ' >ci/constraints.new
{
    echo '# Exact versions of everything that `make` installs, hashed but for torch, whose CPU build'
    echo '# differs by platform. Made by `make constraints`; any index or mirror can serve it.'
    cat ci/constraints.new
} >ci/constraints.txt
rm ci/constraints.new
