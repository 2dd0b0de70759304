#!/bin/sh
# Writes ci/constraints.txt: exact versions with hashes, without addresses, without torch's hashes.
set -eu
pin=$(mktemp)
trap 'rm -f "$pin"' EXIT
echo 'torch==2.13.0' >"$pin"
# cpu and gpu exclude each other, so each is compiled with dev; what both need comes out equal.
compile() {
    UV_FIND_LINKS= .uv/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes \
        --no-header --no-annotate --extra dev --extra "$1" -c "$pin" \
        pyproject.toml
}
{ compile cpu; compile gpu; } |
    awk '
        /^[^ ]/ { skip = seen[$0]++; torch = ($0 ~ /^torch==/)
                  if (torch && !skip) { line = $0; sub(/ *\\$/, "", line); print line } }
        !skip && !torch { print }
    ' >ci/constraints.new
{
    echo '# Exact versions of everything that `make` installs, hashed but for torch, whose CPU build'
    echo '# differs by platform. Made by `make constraints`; any index or mirror can serve it.'
    cat ci/constraints.new
} >ci/constraints.txt
rm ci/constraints.new
