#!/usr/bin/env bash
# Plain and CLVA on MME over held-out scenes under three decodings: results/scenes_mme.json
exec "$(dirname "$0")/scenes_decodings.sh" mme
