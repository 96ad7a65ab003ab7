#!/usr/bin/env bash
# Plain and CLVA on POPE over held-out scenes under three decodings: results/scenes_pope.json
exec "$(dirname "$0")/scenes_decodings.sh" pope
