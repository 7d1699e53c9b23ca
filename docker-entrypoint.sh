#!/usr/bin/env bash
# How the image of the Dockerfile starts its command: as the owner of /dataset, so that all that is written there belongs
# to whoever mounted it. Without a mount that is the image's own user, df. If it is root, root stays: under a rootless
# engine root is you. A container that is started as somebody else (docker run --user) stays as it is.
set -euo pipefail

owner=$(stat -c %u /dataset)
if [ "$(id -u)" = 0 ] && [ "$owner" != 0 ]; then
    exec setpriv --reuid="$owner" --regid="$(stat -c %g /dataset)" --clear-groups -- "$@"
fi
exec "$@"
