#!/bin/sh
# Lay Triton's own load generator out in a folder: bench/peers/perf_analyzer.sh FOLDER makes FOLDER/perf_analyzer.
#
# PyPI has a perf_analyzer for glibc 2.38 and later only (and as 0.1.0 an empty package, which pip takes elsewhere). On an
# older Debian it gets the C libraries of trixie beside it, in that folder and nowhere else, and is started with their
# loader. The package list that apt needs for that is kept in the folder too; the machine's own is not touched.
set -eu
folder=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$folder"
python3 -m pip download --quiet --no-deps --only-binary :all: --platform manylinux_2_38_x86_64 perf-analyzer==2.60.0
python3 -m zipfile -e perf_analyzer-2.60.0-*.whl .
program=$folder/perf_analyzer-bin
cp perf_analyzer/bin/perf_analyzer "$program"
rm -r perf_analyzer perf_analyzer-2.60.0*
chmod +x "$program"
run="\"$program\" \"\$@\""
if ldd "$program" 2>&1 | grep -q 'not found'; then
    mkdir -p apt/lists/partial apt/archives/partial
    sed '/^Suites:/s/.*/Suites: trixie/' /etc/apt/sources.list.d/debian.sources | sed '/^$/,$d' > apt/debian.sources
    options="-o Dir::Etc::sourcelist=$folder/apt/debian.sources -o Dir::Etc::sourceparts=- \
        -o Dir::State::lists=$folder/apt/lists -o Dir::Cache=$folder/apt -o APT::Sandbox::User=root"
    apt-get $options -qq update
    apt-get $options -qq download libc6 libgcc-s1 libssl3t64 libstdc++6 libzstd1 zlib1g
    for package in ./*.deb; do dpkg -x "$package" root; done
    rm -r ./*.deb apt
    libraries=$folder/root/usr/lib/x86_64-linux-gnu
    run="\"$libraries/ld-linux-x86-64.so.2\" --library-path \"$libraries\" $run"
fi
printf '#!/bin/sh\nexec %s\n' "$run" > perf_analyzer
chmod +x perf_analyzer
