#!/bin/sh
# The browser for `make browser`: the distribution's Chromium, installed if there is none, with fonts
# for text and for symbols (DejaVu has no "pause" sign, and a bare container has no font at all).
set -eu

for name in chromium chromium-browser google-chrome; do
	if command -v "$name" >/dev/null; then exit 0; fi
done

if [ "$(id -u)" -eq 0 ]; then
	as_root="env"
elif sudo -n true 2>/dev/null; then
	as_root="sudo -n env"
else
	as_root=""
fi
if [ -z "$as_root" ] || ! command -v apt-get >/dev/null; then
	echo "The browser tests need Chromium: install the package chromium, then try again." >&2
	exit 1
fi

$as_root apt-get update -qq
$as_root DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
	-o Dpkg::Use-Pty=0 chromium fonts-dejavu-core fonts-symbola >/dev/null
