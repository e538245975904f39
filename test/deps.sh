#!/bin/sh
# Installs what the tests stand on, as far as it is missing: Debian packages (PostgreSQL,
# Chromium, mosquitto, swtpm, openssl, rsyslog, Avro for Python,
# what the Linux agent's collectors read) and the npm packages that judge Vauban. Run by `make deps`.
set -eu
cd "$(dirname "$0")"

missing=""
need() { # command package
	command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || ls /usr/lib/postgresql/*/bin/"$1" >/dev/null 2>&1 || missing="$missing $2"
}
need postgres postgresql
need chromium chromium
need mosquitto mosquitto
need swtpm swtpm
need node nodejs
need npm npm
need openssl openssl
need nft nftables
need iptables-save iptables
need rpmbuild rpm
need ip iproute2
need utmpdump util-linux
need fsck.fat dosfstools # they judge the boards' file system
need mdir mtools
[ -x /lib/systemd/systemd-journal-remote ] || missing="$missing systemd-journal-remote"
need rsyslogd rsyslog
ls /usr/lib/*/rsyslog/lmnsd_ossl.so >/dev/null 2>&1 || missing="$missing rsyslog-openssl"
/usr/bin/python3 -c 'import avro' 2>/dev/null || missing="$missing python3-avro" # reads what we write
if [ -n "$missing" ]; then
	sudo=""
	[ "$(id -u)" = 0 ] || sudo=sudo
	echo "installing$missing"
	$sudo apt-get update -qq
	# Their servers are started by the tests, on ports of their own.
	$sudo env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi

for dir in compat console; do
	if [ ! -e "$dir/node_modules/.package-lock.json" ] || [ "$dir/package-lock.json" -nt "$dir/node_modules/.package-lock.json" ]; then
		(cd "$dir" && npm ci --no-audit --no-fund --loglevel=error)
	fi
done
