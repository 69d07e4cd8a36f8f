#!/usr/bin/env bash
# Runs each of libiscsi's tests alone, in a session of its own, and names those that fail, crash or hang:
#
#   contrib/iscsi/each-alone.sh iscsi://127.0.0.1/TARGET/0 [FAMILY]...
#
# The families are ALL, LINUX and iSCSI unless others are named. All that the disk has is lost. With
# another iscsi-test-cu than the system's: ISCSI_TEST_CU=… LD_LIBRARY_PATH=… before it. Ends with 1 where
# a test did not pass.
set -euo pipefail

tool=${ISCSI_TEST_CU:-iscsi-test-cu}
url=${1:?"usage: ${0##*/} iscsi://PORTAL/TARGET/0 [FAMILY]..."}
shift
(($#)) || set -- ALL LINUX iSCSI

run=0 bad=0
for family in "$@"; do
  while read -r test; do
    code=0
    said=$(timeout 60 "$tool" --dataloss --allow-sanitize --normal --test "$test" "$url" "$url" 2>&1 </dev/null) || code=$?
    # Of the summary: how many were run, and how many failed.
    counts=$(awk '$1 == "tests" { print $3 "/" $5 }' <<<"$said")
    run=$((run + 1))
    case $code:$counts in
      0:1/0) continue ;;
      124:*) verdict=hangs ;;
      *:1/1) verdict=fails ;;
      *) verdict="ends with $code, run and failed: ${counts:-unknown}" ;;
    esac
    bad=$((bad + 1))
    echo "$test $verdict"
  done < <("$tool" --list | grep -E "^$family\.[^.]+\.[^.]+$")
done
echo "$run tests, $bad did not pass"
((run > 0 && bad == 0))
