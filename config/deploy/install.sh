#!/bin/sh
# Install or upgrade the node from this folder, without internet: program to /opt/lowdose, service to systemd.
#   sh install.sh                 as root; starts nothing
#   sh install.sh --prefix DIR    the program alone, to DIR, as any user
set -eu
here=$(cd "$(dirname "$0")" && pwd)
prefix=/opt/lowdose
service=yes
case "${1:-}" in
"") ;;
--prefix)
    prefix=${2:?"--prefix needs a folder"}
    service=no
    ;;
*)
    echo "usage: sh install.sh [--prefix DIR]" >&2
    exit 2
    ;;
esac

cd "$here"
if ! sha256sum --quiet --check SHA256SUMS; then
    echo "This folder is damaged or was changed: copy it again." >&2
    exit 1
fi
if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    echo "Install Python first: apt-get install python3 python3-venv" >&2
    exit 1
fi
is=$(python3 -c 'import platform, sys; print(f"Python {sys.version_info[0]}.{sys.version_info[1]}, {platform.machine()}")')
if [ "$is" != "$(cat FOR)" ]; then
    echo "These wheels are for $(cat FOR), and this machine has $is: make the folder on a machine like this one." >&2
    exit 1
fi
if [ "$service" = yes ] && [ "$(id -u)" != 0 ]; then
    echo "Run it as root, or name a folder of yours: sh install.sh --prefix DIR" >&2
    exit 1
fi

# A new environment beside the old one, exchanged at the end: an installation that breaks off changes nothing.
new=$prefix.new
rm -rf "$new"
python3 -m venv --prompt lowdose "$new"
"$new/bin/python" -m pip install --quiet --disable-pip-version-check --no-index --find-links "$here" \
    -c constraints.txt 'lowdose-node[cluster,tracing]'
# Scripts of an environment hold its path.
grep -rlIZ "$new" "$new/bin" "$new/pyvenv.cfg" | xargs -0 -r sed -i "s|$new|$prefix|g"
find "$new" -name __pycache__ -prune -exec rm -rf {} +
rm -rf "$prefix.old"
if [ -e "$prefix" ]; then mv "$prefix" "$prefix.old"; fi
mv "$new" "$prefix"
"$prefix/bin/python" -m compileall -q "$prefix/lib" >/dev/null || true
"$prefix/bin/dicom-node" version

if [ "$service" = yes ]; then
    install -D -m 644 systemd/lowdose.sysusers /etc/sysusers.d/lowdose.conf
    install -D -m 644 systemd/dicom-node.service /etc/systemd/system/dicom-node.service
    systemd-sysusers lowdose.conf
    systemctl daemon-reload || true
    install -d -o root -g lowdose -m 750 /etc/lowdose
    if [ ! -e /etc/lowdose/node.toml ]; then
        folder=$(mktemp -d)
        "$prefix/bin/dicom-node" init "$folder" >/dev/null
        sed -i 's|^# data_dir = .*|data_dir = "/var/lib/lowdose"|' "$folder/node.toml"
        install -o root -g lowdose -m 640 "$folder/node.toml" /etc/lowdose/node.toml
        rm -rf "$folder"
        echo "Wrote /etc/lowdose/node.toml: enter your AE titles and your PACS, then"
        echo "    $prefix/bin/dicom-node check -c /etc/lowdose/node.toml && systemctl enable --now dicom-node"
    else
        echo "Upgraded; $prefix.old is the version before. Now: systemctl restart dicom-node"
    fi
fi
