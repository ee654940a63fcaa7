#!/bin/sh
# The browser for `make browser`: the distribution's Chromium without windows, with which the tests
# take half of the processor time, or else any Chromium. The browser is installed if there is none,
# with fonts for text and for symbols (DejaVu has no "pause" sign, and a bare container has no font).
set -eu

for name in chromium-headless-shell chromium chromium-browser google-chrome; do
	if command -v "$name" >/dev/null; then break; fi
	name=""
done
if [ "$name" = chromium-headless-shell ]; then exit 0; fi

if [ "$(id -u)" -eq 0 ]; then
	as_root="env"
elif sudo -n true 2>/dev/null; then
	as_root="sudo -n env"
else
	as_root=""
fi
install() {
	$as_root DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
		-o Dpkg::Use-Pty=0 "$1" fonts-dejavu-core fonts-symbola >/dev/null
}
if [ -n "$as_root" ] && command -v apt-get >/dev/null && $as_root apt-get update -qq; then
	install chromium-headless-shell || [ -n "$name" ] || install chromium
elif [ -z "$name" ]; then
	echo "The browser tests need Chromium: install the package chromium-headless-shell or chromium," \
		"then try again." >&2
	exit 1
fi
