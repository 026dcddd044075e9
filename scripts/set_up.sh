# Finds, or makes, the Python environment that the commands of this repository run in. A script sources it
#
#     . scripts/set_up.sh; set_up requirements.txt
#
# in the repository's folder and then calls "$PYTHON"; `sh scripts/set_up.sh [FILE]` only installs.
#
# - If a virtual or conda environment is active, or PYTHON names an interpreter, that one is used. Only missing
#   packages are installed there; whatever is there, its torch first of all, keeps its version.
# - Else .venv is used, and made if there is none. It gets the tested versions, those of constraints.txt.
#
# POSIX sh. Wheels in a folder do instead of a network: PIP_NO_INDEX=1 PIP_FIND_LINKS=folder sh scripts/set_up.sh

venv_is_ours=

stop() {
  printf '%s\n' "$@" >&2
  exit 1
}

find_python() {
  if [ -n "${PYTHON:-}" ]; then
    return
  elif [ -n "${VIRTUAL_ENV:-}" ] && [ "$VIRTUAL_ENV" != "$(pwd -P)/.venv" ]; then
    PYTHON=$VIRTUAL_ENV/bin/python
  elif [ -n "${CONDA_PREFIX:-}" ] && [ -z "${VIRTUAL_ENV:-}" ]; then
    PYTHON=$CONDA_PREFIX/bin/python
  else
    PYTHON=.venv/bin/python
    venv_is_ours=yes
  fi
}

# check_version PYTHON
check_version() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    stop "Python 3.10 or newer is needed, and $1 is $("$1" --version 2>&1)." \
      "Activate an environment with a newer one, or name it: PYTHON=/path/to/python3.11 sh ..."
}

make_venv() {
  command -v python3 >/dev/null || stop "python3 is not installed; Python 3.10 or newer is needed."
  check_version python3
  echo "making the virtual environment .venv"
  python3 -m venv .venv ||
    stop "python3 cannot make a virtual environment (above). On Debian and Ubuntu the package python3-venv is missing."
}

set_up() {
  find_python
  if [ -n "$venv_is_ours" ]; then
    # again if pip is missing: it comes last, so an earlier call was cut off
    [ -x "$PYTHON" ] && "$PYTHON" -c 'import pip' 2>/dev/null || make_venv
  elif ! command -v "$PYTHON" >/dev/null; then
    stop "the active environment has no $PYTHON. Activate another one, or none: then .venv is made."
  fi
  check_version "$PYTHON"
  missing=$("$PYTHON" scripts/missing_packages.py "$1" ${venv_is_ours:+constraints.txt}) ||
    stop "Nothing was changed. Install newer ones there, or deactivate the environment: then .venv is made."
  [ -z "$missing" ] || install "$1"
}

# set_up_for FLAGS: requirements.txt, and what the towers need that a command line names
set_up_for() {
  set_up requirements.txt
  named_towers "$@"
  case $towers in
    small) set_up requirements-small.txt ;;
    *:*) [ ! -f "requirements-${towers%%:*}.txt" ] || set_up "requirements-${towers%%:*}.txt" ;;
  esac
}

# named_towers FLAGS: sets towers to the last --pretrained_clip_name of a command line
named_towers() {
  last_value --pretrained_clip_name "$@"
  towers=$value
}

# last_value FLAG FLAGS: sets value to the last one that a command line gives to a flag, to nothing if it has none
last_value() {
  wanted=$1
  value=
  previous=
  shift
  for flag in "$@"; do
    case $flag in
      "$wanted="*) value=${flag#*=} ;;
    esac
    [ "$previous" != "$wanted" ] || value=$flag
    previous=$flag
  done
}

# install FILE: what "$missing" lists, one requirement a line
install() {
  echo "installing with $PYTHON:" $missing
  "$PYTHON" -c 'import pip' 2>/dev/null || stop "$PYTHON has no pip: install the above with your own tool."
  if [ -n "$venv_is_ours" ]; then
    run_pip -r "$1" -c constraints.txt
  else
    kept=$(mktemp) && wanted=$(mktemp) || stop "no temporary file can be made"
    "$PYTHON" -m pip --disable-pip-version-check list --format=freeze >"$kept" || stop "pip cannot list the packages"
    printf '%s\n' "$missing" >"$wanted"
    run_pip -r "$wanted" -c "$kept"
    rm -f "$kept" "$wanted"
  fi
  [ "$pip_status" = 0 ] || stop \
    "pip could not install the packages (above); the next call goes on from here." \
    "Without a network: fetch them on another machine with 'pip download -r $1 -c constraints.txt -d wheels'," \
    "then PIP_NO_INDEX=1 PIP_FIND_LINKS=wheels sh scripts/set_up.sh $1"
}

# run_pip ARGUMENTS: one line per package instead of pip's four; sets pip_status. Its errors are shown in full.
run_pip() {
  pip_status=$(
    {
      {
        "$PYTHON" -m pip --disable-pip-version-check --no-input install --progress-bar off "$@" 3>&-
        echo $? >&3
      } | while IFS= read -r line; do
        case $line in
          *.metadata*) ;;
          *"Downloading "* | *"Using cached "* | *"Building wheel"*) printf '%s\n' "$line" >&2 ;;
          *"Installing collected"*) echo "  installing what was downloaded" >&2 ;;
        esac
      done
    } 3>&1
  )
}

case $0 in
  */set_up.sh | set_up.sh)
    CDPATH="" cd "$(dirname "$0")/.." || exit
    set_up "${1:-requirements.txt}"
    echo "ready: $PYTHON"
    ;;
esac
