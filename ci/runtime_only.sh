#!/usr/bin/env bash
# The promise to a hospital: what `tier-infer wheelhouse` lists is all that an installation without
# a network needs, nothing of training is importable there, and a study is scored. Prints sizes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
.venv/bin/python -m build -q --wheel --no-isolation --outdir "$work" . 2>/dev/null ||
    .venv/bin/python -m build --wheel --outdir "$work" .
wheel=$(basename "$work"/*.whl)
.venv/bin/python tests/trained.py "$work/site" # a small trained bundle and study.dcm
cd "$work"
"$OLDPWD/.venv/bin/python" -m venv connected
connected/bin/pip install -qq "./$wheel"
connected/bin/tier-infer wheelhouse --extra cpu --requirements >tier-cxr.txt

# From here on the commands are those that stand in the file itself, and in docs/offline.md.
run_from_file() { # the N-th command of tier-cxr.txt, with the Python of an environment
    line=$(sed -n 's/^# *python -m \(pip .*\)/\1/p' tier-cxr.txt | sed -n "$1p")
    eval "${3:-} $2/bin/python -m ${line//THIS_FILE/tier-cxr.txt} -qq"
}
run_from_file 1 connected
cp "$wheel" wheelhouse/
connected/bin/tier-infer wheelhouse --extra cpu --check wheelhouse

offline="env -u PIP_FIND_LINKS PIP_CONFIG_FILE=/dev/null" # no other folder of wheels
if unshare -rn true 2>/dev/null; then
    offline="unshare -rn $offline"
    if $offline connected/bin/python -c \
        'import socket; socket.create_connection(("192.0.2.1", 9), 5)' 2>/dev/null; then
        echo "the network is still there" >&2
        exit 1
    fi
else
    echo "no network namespace is allowed here: only pip's --no-index keeps the network out"
fi
$offline connected/bin/python -m venv env
run_from_file 2 env "$offline"
run_from_file 3 env "$offline"
du -sm wheelhouse | awk '{print "wheelhouse: " $1 " MB"}'
du -sm env | awk '{print "runtime environment: " $1 " MB"}'
for name in torch transformers onnx sklearn onnxscript tokenizers; do
    if env/bin/python -c "import $name" 2>/dev/null; then
        echo "$name is importable in the runtime environment" >&2
        exit 1
    fi
done
export TIER_CACHE="$work/cache"
cd site
$offline ../env/bin/tier-infer doctor
$offline ../env/bin/tier-infer warmup --device cpu
$offline ../env/bin/tier-infer study.dcm --labels cardiomegaly,edema
