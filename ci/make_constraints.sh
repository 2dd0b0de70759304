#!/bin/sh
# Writes ci/constraints.txt: exact versions with hashes, without addresses, without torch's hashes,
# and from it tier_infer/wheels/wheels.json, the table behind `tier-infer wheelhouse`.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo 'torch==2.13.0' >"$work/pin"
echo 'wheel' >"$work/build" # with setuptools it builds what NVIDIA gives as source archives only
# cpu and gpu exclude each other, so each is compiled with dev; what both need comes out equal.
# rtx once more without dev's markers, which leave Windows out.
compile() {
    UV_FIND_LINKS= .uv/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes \
        --no-header --no-annotate --extra dev "$@" -c "$work/pin" \
        pyproject.toml "$work/build"
}
{ compile --extra cpu; compile --extra gpu; compile --extra rtx --extra tensorrt; } |
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
.venv/bin/python ci/make_wheels.py
