#!/bin/sh
# Makes .venv with everything that development needs. Called by `make`; needs Python >= 3.11.
#   TORCH=cpu (default) takes a CPU-only torch where the platform offers one.
#   TORCH=cuda takes the CUDA build of torch and onnxruntime-gpu, several GB more.
set -eu
python=${PYTHON:-python3}
torch=${TORCH:-cpu}
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' || {
    echo "setup: Python 3.11 to 3.14 is needed, $("$python" --version) was found; set PYTHON=" >&2
    exit 2
}
want="$torch $("$python" -c 'import sys; print(sys.version)')"
if [ -d .venv ] && [ "$(cat .venv/.made-for 2>/dev/null)" != "$want" ]; then
    rm -rf .venv # another build of torch or another Python: never one over the other
fi
[ -x .uv/bin/uv ] || { "$python" -m venv .uv && .uv/bin/pip install -q uv==0.13.9; }
[ -x .venv/bin/python ] || .uv/bin/uv venv -q --python "$python" .venv

install() {
    .uv/bin/uv pip install -q --python .venv/bin/python -c ci/constraints.txt "$@"
}
# A folder of wheels that pip is configured to look into is used here too.
export UV_FIND_LINKS="${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}"
case $torch in
cuda) install -e '.[gpu,dev]' ;;
cpu)
    if [ -n "$UV_FIND_LINKS" ] || [ "$(uname)" != Linux ]; then
        install -e '.[cpu,dev]'
    elif ! install --torch-backend cpu -e '.[cpu,dev]' 2>/dev/null; then
        echo "setup: no CPU-only torch can be reached, taking the default build, which is larger" >&2
        install -e '.[cpu,dev]'
    fi
    ;;
*)
    echo "setup: TORCH is '$torch', allowed: cpu, cuda" >&2
    exit 2
    ;;
esac
printf '%s' "$want" >.venv/.made-for
touch .venv/.ready
