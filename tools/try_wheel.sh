#!/usr/bin/env bash
# Build the wheel, look into it, install it into an empty environment outside the repository and use
# it as a stranger would. Leaves nothing behind. Under two minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
repository=$PWD
began=$SECONDS

# .ci/run exports a function of this name; elsewhere it is the program, or Python's module.
if ! type uv >/dev/null 2>&1; then
    uv() { python3 -m uv "$@"; }
fi

folder=$(mktemp -d "${TMPDIR:-/tmp}/avw-XXXXXX")
server=
leave() {
    local status=$?
    if [[ -n $server ]] && kill -0 "$server" 2>/dev/null; then
        kill -TERM "$server"
        wait "$server" || true
    fi
    rm -rf "$folder"
    exit "$status"
}
trap leave EXIT
trap 'exit 130' INT TERM

fail() {
    printf 'try_wheel: %s\n' "$*" >&2
    exit 1
}
say() { printf '%4d s  %s\n' "$((SECONDS - began))" "$*"; }

# The environment's own settings must not leak in, nor the user's home.
unset VIRTUAL_ENV PYTHONPATH AVIARY_URL AVIARY_API_KEY AVIARY_DATABASE_URL
export AVIARY_HOME=$folder/home AVIARY_RUNTIME=$folder

uv build --quiet --wheel --out-dir "$folder/dist"
wheels=("$folder"/dist/*.whl)
wheel=${wheels[0]}
[[ -f $wheel && ${#wheels[@]} == 1 ]] || fail "expected one wheel in dist: ${wheels[*]}"
say "built $(basename "$wheel"), $(($(wc -c <"$wheel") / 1024)) KiB"

uv venv --quiet "$folder/venv"
python=$folder/venv/bin/python
"$python" - "$wheel" "$repository" <<'PYTHON'
import re, sys, zipfile
from pathlib import Path

names = set(zipfile.ZipFile(sys.argv[1]).namelist())
repository = Path(sys.argv[2])
wanted = {f"aviary/catalog/{file.name}" for file in repository.glob("models/*.yaml")}
migrations = repository / "src/aviary/store/migrations"
wanted |= {f"aviary/store/migrations/{f.relative_to(migrations)}" for f in migrations.rglob("*.py")}
wanted |= {"aviary/py.typed", "aviary/web/static/index.html"}
missing = sorted(wanted - names)
if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
    missing.append("the licence")
if missing:
    sys.exit(f"try_wheel: not in the wheel: {', '.join(missing)}")
top = {name.partition("/")[0] for name in names}
test = re.compile(r"(^|[/_])(tests?|conftest)([/_.]|$)")
odd = sorted(n for n in names if test.search(n.lower()) or n.endswith(".pyc"))
odd += sorted(n for n in top if n != "aviary" and not n.endswith(".dist-info"))
if odd:
    sys.exit(f"try_wheel: should not be in the wheel: {', '.join(odd)}")
PYTHON
say "it holds catalog, migrations, the Explorer, py.typed and licence, and no tests"

"$python" - "$repository/pyproject.toml" >"$folder/constraints.txt" <<'PYTHON'
import sys, tomllib
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text())
print("\n".join(project["tool"]["uv"]["constraint-dependencies"]))
PYTHON
uv pip install --quiet --python "$python" --constraint "$folder/constraints.txt" "$wheel"
for package in ray torch openai; do
    if uv pip show --quiet --python "$python" "$package" >/dev/null 2>&1; then
        fail "$package is installed by default"
    fi
done
count=$("$python" -c 'import importlib.metadata as m; print(sum(1 for _ in m.distributions()))')
say "installed: $count packages, $(du -sm "$folder/venv" | cut -f1) MB; no ray, torch or openai"

mkdir "$folder/elsewhere"
cd "$folder/elsewhere"
aviary=$folder/venv/bin/aviary
"$aviary" version
"$aviary" --help >/dev/null
"$aviary" schema | "$python" -c 'import json, sys; assert json.load(sys.stdin)["properties"]["id"]'
catalog=$("$python" -c 'from aviary.config.loader import catalog_dir; print(catalog_dir())')
[[ $catalog == "$folder"/venv/* ]] || fail "the catalog is not the packaged one: $catalog"
"$aviary" check --no-generate "$catalog"
say "version, help, schema and check work"

cat >fake.yaml <<'YAML'
id: fake
engine: {kind: fake}
YAML
# A group of its own, as a terminal gives; SIGINT is not ignored there, as it is in a script's children.
"$python" - "$aviary" >started.json 2>errors.txt <<'PYTHON' &
import os, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)
os.setsid()
os.execv(sys.argv[1], [sys.argv[1], "up", "fake.yaml", "--port", "0", "--json"])
PYTHON
server=$!
for _ in $(seq 300); do
    grep -q '^}' started.json && break
    kill -0 "$server" 2>/dev/null || fail "aviary up ended: $(cat errors.txt)"
    sleep 0.1
done
grep -q '^}' started.json || fail "aviary up is not ready after 30 s: $(cat errors.txt)"
"$python" - <<'PYTHON'
import json, urllib.request
from pathlib import Path

url = json.loads(Path("started.json").read_text())["url"]
question = {"model": "fake", "messages": [{"role": "user", "content": "Why do birds sing?"}]}
request = urllib.request.Request(
    f"{url}/v1/chat/completions", json.dumps(question).encode(), {"content-type": "application/json"}
)
with urllib.request.urlopen(request, timeout=20) as response:
    answer = json.load(response)["choices"][0]["message"]["content"]
assert answer, "no answer"
with urllib.request.urlopen(f"{url}/docs/swagger-ui.css", timeout=20) as response:
    assert response.status == 200
with urllib.request.urlopen(url, timeout=20) as response:
    assert b'id="root"' in response.read(), "the Explorer is not there"
print(f"answer: {answer[:60]}")
PYTHON
pids=$("$python" - "$server" <<'PYTHON'
import sys, psutil

print(*(child.pid for child in psutil.Process(int(sys.argv[1])).children(recursive=True)))
PYTHON
)
[[ -n $pids ]] || fail "aviary up has no child processes"
kill -INT "$server"
status=0
wait "$server" || status=$?
server=
((status == 0)) || fail "aviary up ended with status $status after Ctrl-C: $(cat errors.txt)"
for pid in $pids; do
    if kill -0 "$pid" 2>/dev/null; then fail "process $pid was left behind"; fi
done
left=$(find "$folder" -maxdepth 1 -name 'aviary-run-*')
[[ -z $left ]] || fail "left behind: $left"
say "served an answer, stopped by Ctrl-C, left nothing"
