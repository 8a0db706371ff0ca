#!/bin/sh
# Makes the virtual environment FOLDER (the one argument) with the first Python on the PATH that is new enough and
# complete, or says in one line what to install.
set -u
folder=$1

found=""
for python in python3 python3.14 python3.13 python3.12 python3.11; do
    # The version, followed by "-" where the parts are missing that Debian packages on their own.
    version=$("$python" -c '
import sys
try:
    import ensurepip, venv
    complete = ""
except ImportError:
    complete = "-"
print("%d.%d%s" % (sys.version_info[0], sys.version_info[1], complete))' 2>/dev/null) || continue
    found="$found $python ($version)"
    case $version in
    *- | 2.* | 3.? | 3.10) ;;
    *)
        echo "Making the virtual environment $folder with $python ($version) ..."
        exec "$python" -m venv --clear "$folder"
        ;;
    esac
done

case $found in
"") reason="there is none on the PATH" ;;
*-\)*) reason="found$found, the ones marked - without venv" ;;
*) reason="found$found" ;;
esac
echo "Python 3.11 or newer with its venv module is needed, but $reason; install it, on Debian or Ubuntu with: apt-get install python3 python3-venv" >&2
exit 1
