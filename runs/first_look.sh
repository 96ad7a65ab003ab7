#!/usr/bin/env bash
# Makes docs/first-look.png, the README's picture, with the bundled model.
set -euo pipefail
cd "$(dirname "$0")/.."
make demo
cp demo/overview.png docs/first-look.png
