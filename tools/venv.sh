#!/bin/sh
# Creates a Python 3.7 virtual environment with the given requirements, or updates it.
#     tools/venv.sh FOLDER REQUIREMENTS_FILE
# Does nothing if the folder already has exactly these requirements.
set -eu
folder=$1
requirements=$2

# A shim on the PATH may exist without working; venv and pip may be packaged separately.
works() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 7))' 2>/dev/null
}

make_environment() {
    for python in python3.7 python3 python "$HOME"/.pyenv/versions/3.7.*/bin/python; do
        if works "$python"; then
            "$python" -m venv --clear "$folder"
            return
        fi
    done
    if command -v uv >/dev/null 2>&1 && uv venv --quiet --seed --clear --python 3.7 "$folder"; then
        return
    fi
    echo "error: no working Python 3.7 found (tried python3.7, python3, ~/.pyenv/versions/3.7.*" \
        "and uv); install one, for example with 'pyenv install 3.7' or 'pip install uv'" >&2
    exit 2
}

installed="$folder/installed-$(basename "$requirements")"
wanted=$(cat requirements*.txt)
if [ -x "$folder/bin/python" ] && [ "$(cat "$installed" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi
works "$folder/bin/python" || make_environment
echo "installing $requirements into $folder (a few minutes)"
"$folder/bin/python" -m pip install -q -q --disable-pip-version-check -r "$requirements"
for file in "$(basename "$requirements")" $(sed -n 's/^-r //p' "$requirements"); do
    echo "$wanted" >"$folder/installed-$file"
done
