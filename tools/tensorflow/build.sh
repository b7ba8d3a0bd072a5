#!/usr/bin/env bash
# Makes the `tensorflow` backend usable in this checkout, for contributors on Linux x64. See README.md.
#
#   tools/tensorflow/build.sh [DIR]
#
# DIR keeps TensorFlow's library (0.6 GB) between runs; default: a folder in the user's cache, outside the repository.
# TENSORFLOW_VERSION chooses another release of the tensorflow-cpu wheel for Python 3.11.
set -euo pipefail

TFJS_VERSION=4.22.0
TENSORFLOW_VERSION=${TENSORFLOW_VERSION:-2.12.0}
NAPI_VERSION=8 # the newest that tfjs-node 4.22.0 asks for; Node 20, 22 and 24 all provide it

checkout=$(cd "$(dirname "$0")/../.." && pwd)
cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/tonearm}/tensorflow-$TENSORFLOW_VERSION
package=$checkout/node_modules/@tensorflow/tfjs-node

[[ $(uname -sm) == "Linux x86_64" ]] || { echo "This script knows Linux on x64 only, not $(uname -sm)." >&2; exit 1; }
for tool in g++ node npm python3; do
  command -v "$tool" >/dev/null || { echo "This script needs $tool." >&2; exit 1; }
done
case $cache in "$checkout"/*) echo "Choose a folder outside the repository, not $cache." >&2; exit 1 ;; esac

# 1. TensorFlow's C library and headers, out of the Python wheel. Which Python runs pip doesn't matter: nothing of the
#    wheel is imported.
if [[ ! -e $cache/complete ]]; then
  mkdir -p "$cache/wheel"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$cache/wheel" \
    --python-version 3.11 --implementation cp --abi cp311 \
    --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux_2_27_x86_64 \
    "tensorflow-cpu==$TENSORFLOW_VERSION"
  python3 - "$cache" <<'PYTHON'
import pathlib, sys, zipfile

cache = pathlib.Path(sys.argv[1])
wanted = ("tensorflow/libtensorflow_", "tensorflow/include/tensorflow/c/", "tensorflow/include/tensorflow/tsl/",
          "tensorflow/include/tensorflow/core/platform/", "tensorflow/include/tsl/", "tensorflow/include/xla/tsl/c/")
with zipfile.ZipFile(next((cache / "wheel").glob("tensorflow_cpu-*.whl"))) as wheel:
    for name in wheel.namelist():
        if name.startswith(wanted) and not name.endswith("/"):
            wheel.extract(name, cache)
PYTHON
  rm -r "$cache/wheel"
  touch "$cache/complete"
fi

# 2. The npm package without its install script, which downloads from elsewhere. What it depends on goes into a folder of
#    its own, all but tfjs-core and the cpu backend: those must be the checkout's, so that there is one engine.
[[ -e $checkout/node_modules/@tensorflow/tfjs-core ]] || { echo "Run 'npm ci' first." >&2; exit 1; }
npm install --prefix "$cache" --no-save --ignore-scripts --no-audit --no-fund \
  "@tensorflow/tfjs-node@$TFJS_VERSION"
rm -rf "$package"
cp -r "$cache/node_modules/@tensorflow/tfjs-node" "$package"
cp -r "$cache/node_modules" "$package/node_modules"
rm -r "$package"/node_modules/@tensorflow/{tfjs-node,tfjs-core,tfjs-backend-cpu}

# 3. The binding, from its unmodified sources. It is pure Node-API, so neither node-gyp nor Node's own headers
#    are needed, and one build serves every Node.
mkdir -p "$package/lib/napi-v$NAPI_VERSION" "$package/deps"
ln -sfn "$cache/tensorflow" "$package/deps/lib"
g++ -std=c++17 -O2 -fPIC -shared -DNAPI_VERSION=$NAPI_VERSION \
  -I"$package" -I"$checkout/node_modules/node-api-headers/include" -I"$cache/tensorflow/include" \
  "$package/binding/tfjs_backend.cc" "$package/binding/tfjs_binding.cc" \
  -L"$cache/tensorflow" -l:libtensorflow_cc.so.2 -l:libtensorflow_framework.so.2 \
  '-Wl,-rpath,$ORIGIN/../../deps/lib' -o "$package/lib/napi-v$NAPI_VERSION/tfjs_binding.node"

# 4. Ops of every kind that tonearm uses, compared with TF.js in plain JavaScript.
node tools/tensorflow/check.mjs
