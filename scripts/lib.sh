# Sourced by the other scripts: the virtual environment in .venv, installed from the lock files.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
stamp=$venv/.meshca-installed # what was installed: kind, place, and a digest of the files that decide it

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
fail() {
  say "$*"
  exit 1
}

is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# The first Python that is recent enough; $PYTHON overrules the search.
find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if command -v "$candidate" >/dev/null && is_recent "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  [ -z "${PYTHON:-}" ] || fail "PYTHON=$PYTHON is not a Python 3.11 or newer"
  fail "needs Python 3.11 or newer; found: $(python3 --version 2>&1 || true). Install one, or set PYTHON to its path."
}

# apt_package NAME WHY: installs a Debian package where that is ours to do, and says what to do where it is not.
apt_package() {
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    fail "$2. Install it: sudo apt-get install $1"
  fi
  say "installing $1"
  quietly "apt-get could not install $1" \
    env DEBIAN_FRONTEND=noninteractive sh -c "apt-get update -qq && apt-get install -y -qq --no-install-recommends $1"
}

# Debian and Ubuntu keep the venv module in a package of its own.
require_venv_module() {
  "$1" -c 'import ensurepip, venv' 2>/dev/null && return
  apt_package "python$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv" "$1 has no venv module"
}

# require_program NAME PACKAGE: a program that the tests run.
require_program() {
  command -v "$1" >/dev/null || apt_package "$2" "the tests run $1, which is not installed"
}

# Runs a command; shows what it said, and fails with the message, only where it fails.
quietly() {
  local message=$1 log
  shift
  log=$(mktemp)
  if ! "$@" >"$log" 2>&1; then
    tail -n 25 "$log" >&2
    rm -f "$log"
    fail "$message"
  fi
  rm -f "$log"
}

make_venv() {
  local python
  python=$(find_python)
  require_venv_module "$python"
  say "making .venv with $("$python" --version)"
  quietly "could not make $venv" "$python" -m venv --clear "$venv"
}

pip_install() {
  quietly "installing failed: see the lines above. It needs the package index within reach, and Linux on x86-64 or arm64." \
    "$venv/bin/python" -m pip --disable-pip-version-check --no-input install --quiet --no-deps "$@"
}

# The stamp that an up-to-date environment of this kind has.
wanted() {
  local digest
  digest=$(cat "$root/requirements/build.lock" "$root/requirements/$1.lock" "$root/pyproject.toml" | sha256sum)
  printf '%s %s %s' "$1" "${digest%% *}" "$root"
}

installed() { cat "$stamp" 2>/dev/null || true; }

# An environment that works, and was made here: console scripts hold the path of their environment.
is_usable() {
  [ -x "$venv/bin/python" ] && is_recent "$venv/bin/python" || return 1
  case $(installed) in
  '' | *" $root") ;;
  *) return 1 ;;
  esac
}

# prepare_venv dev|runtime: .venv holds exactly what the lock file says, hashes checked, and this project.
prepare_venv() {
  (
    flock 9
    local kind=$1
    is_usable || make_venv
    case $(installed) in dev\ *) kind=dev ;; esac # never less than what was there
    [ "$(installed)" != "$(wanted "$kind")" ] || exit 0
    say "installing into .venv from requirements/$kind.lock (the first time, a few minutes of download)"
    rm -f "$stamp"
    pip_install --require-hashes -r "$root/requirements/build.lock"
    pip_install --require-hashes -r "$root/requirements/$kind.lock"
    pip_install --no-build-isolation -e "$root"
    wanted "$kind" >"$stamp"
  ) 9<"$root/pyproject.toml"
}
