#!/usr/bin/env bash
# Entry point of the Docker image. Runs the command as the owner of /dataset, so that the user who mounted it owns all
# new files. Without a mount, the owner is the image's user df. If the owner is root, the command runs as root: under a
# rootless engine, root maps to the calling user. With docker run --user, the command runs as that user.
set -euo pipefail

owner=$(stat -c %u /dataset)
if [ "$(id -u)" = 0 ] && [ "$owner" != 0 ]; then
    exec setpriv --reuid="$owner" --regid="$(stat -c %g /dataset)" --clear-groups -- "$@"
fi
exec "$@"
