#!/usr/bin/env bash
# The promise to a hospital: base package and [cpu] from the wheel, nothing of training importable,
# and a study is scored. Prints the size of that environment.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
.venv/bin/python -m build -q --wheel --no-isolation --outdir "$work" . 2>/dev/null ||
    .venv/bin/python -m build --wheel --outdir "$work" .
.venv/bin/python tests/trained.py "$work/site" # a small trained bundle and study.dcm
.uv/bin/uv venv -q --python .venv/bin/python "$work/env"
.uv/bin/uv pip install -q --python "$work/env/bin/python" -c ci/constraints.txt \
    "tier-cxr[cpu] @ file://$(ls "$work"/*.whl)"
du -sm "$work/env" | awk '{print "runtime environment: " $1 " MB"}'
for name in torch transformers onnx sklearn onnxscript tokenizers; do
    if "$work/env/bin/python" -c "import $name" 2>/dev/null; then
        echo "$name is importable in the runtime environment" >&2
        exit 1
    fi
done
cd "$work/site"
"$work/env/bin/tier-infer" study.dcm --labels cardiomegaly,edema
