#!/usr/bin/env bash
# Plain and CLVA on CHAIR over held-out scenes under three decodings: results/scenes_chair.json
exec "$(dirname "$0")/scenes_decodings.sh" chair
