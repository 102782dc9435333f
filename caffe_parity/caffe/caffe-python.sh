#!/bin/sh
# Runs the Python of this Caffe, wherever this folder lies: set CAFFE_PYTHON to this file.
#
# Everything is in this folder but what belongs to the machine: CUDA's libraries, and the driver's
# libcuda, without which only the CPU can be used. They are looked for in LD_LIBRARY_PATH, in
# CUDA_HOME and CUDA_PATH, in the usual folders, in what ldconfig knows, and in the CUDA packages
# that the python3 on PATH can import.

here=$(dirname -- "$(readlink -f -- "$0")")
wanted="libcublas.so.13 libcublasLt.so.13 libcudart.so.13 libcurand.so.10"

case $here in
*[:\;\$]*)
    echo "caffe-python: the folder's path must not contain a colon, a semicolon or a \$: $here" >&2
    exit 127
    ;;
esac

# One folder a line, the first that has a library wins.
usual() {
    echo "$LD_LIBRARY_PATH" | tr ':' '\n'
    for home in "$CUDA_HOME" "$CUDA_PATH" /usr/local/cuda /usr/local/cuda-13* /opt/cuda; do
        [ -n "$home" ] && printf '%s\n' "$home/lib64" "$home/lib" "$home/targets/x86_64-linux/lib"
    done
    printf '%s\n' /usr/lib/x86_64-linux-gnu /usr/lib64 /usr/lib/wsl/lib /usr/local/nvidia/lib64 \
        /usr/local/nvidia/lib
    PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null |
        sed -n 's,.*\(libcu[A-Za-z]*\)\.so\.[0-9]* (.*x86-64.*) => \(/.*\)/[^/]*$,\2,p' | sort -u
}

packages() {
    python3 -c '
import glob, os, sys
for folder in sys.path:
    print("\n".join(sorted(glob.glob(os.path.join(glob.escape(folder), "nvidia", "*", "lib")))))
' 2>/dev/null
}

# The folder of the library $1 among the lines of $2.
folder_of() {
    echo "$2" | while IFS= read -r folder; do
        case $folder in
        /*) [ -e "$folder/$1" ] && echo "$folder" && break ;;
        esac
    done
}

folders=$(usual)
path=
missing=
add() {
    case ":$path:" in
    *":$1:"*) ;;
    *) path=$path:$1 ;;
    esac
}
for library in $wanted; do
    found=$(folder_of "$library" "$folders")
    if [ -z "$found" ]; then
        [ -n "$packages" ] || packages=$(packages)
        found=$(folder_of "$library" "$packages")
    fi
    if [ -n "$found" ]; then add "$found"; else missing="$missing $library"; fi
done
if [ -n "$missing" ]; then
    echo "caffe-python: not found:$missing" >&2
    echo "  to do: install CUDA 13's libraries, and if they are in an unusual folder set CUDA_HOME" >&2
    echo "         or LD_LIBRARY_PATH; PyPI has them as nvidia-cublas, nvidia-curand and" >&2
    echo "         nvidia-cuda-runtime." >&2
    exit 127
fi
found=$(folder_of libcuda.so.1 "$folders")
[ -n "$found" ] && add "$found"

# The host's own settings would load the host's files into this Python.
unset LD_LIBRARY_PATH LD_PRELOAD PYTHONDEVMODE PYTHONINSPECT PYTHONOPTIMIZE PYTHONPATH \
    PYTHONSTARTUP PYTHONWARNINGS
export GLOG_minloglevel="${GLOG_minloglevel:-2}" PYTHONDONTWRITEBYTECODE=1 PYTHONHOME="$here/usr" \
    PYTHONNOUSERSITE=1 PYTHONUTF8=1
lib=$here/usr/lib/x86_64-linux-gnu
exec "$here/lib/x86_64-linux-gnu/ld-2.31.so" --inhibit-cache \
    --library-path "$lib/blas:$lib/lapack:$lib:$here/lib/x86_64-linux-gnu:$here/usr/lib$path" \
    "$here/usr/bin/python3.9" "$@"
