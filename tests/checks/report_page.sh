#!/usr/bin/env bash
# The page of infinipot-read --report, opened in headless Chromium: does it draw all tokens, and what the pot holds?
#   report_page.sh INFINIPOT_READ FOLDER      skips (77) without chromium or a model
set -euo pipefail
read_program=$1 folder=$2
browser=$(command -v chromium || command -v chromium-browser || true)
[ -n "$browser" ] || { echo "skipped: there is no chromium"; exit 77; }
[ -f "${INFINIPOT_MODEL:-}" ] || { echo "skipped: INFINIPOT_MODEL names no model"; exit 77; }
mkdir -p "$folder"
for i in $(seq 400); do echo "Day $i was quiet, <b>& the harbour</b> was empty."; done >"$folder/text.txt"
"$read_program" --model "$INFINIPOT_MODEL" --document "$folder/text.txt" --question "Why?" --pot 512 --granularity head \
  --generate 2 --json "$folder/report.json" --report "$folder/page.html"
page=$(timeout 120 "$browser" --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --virtual-time-budget=20000 \
  --user-data-dir="$folder/profile" --dump-dom "file://$(realpath "$folder/page.html")" 2>"$folder/browser.log") ||
  { echo "the browser failed ($?):"; tail -5 "$folder/browser.log"; exit 1; }
drawn=$(grep -o 'data-drawn="[0-9]*"' <<<"$page" | tr -dc 0-9)
held=$(grep -o 'data-held="[0-9]*"' <<<"$page" | tr -dc 0-9)
shaded=$(grep -o 'background: rgba(30, 110, 230' <<<"$page" | wc -l)
tokens=$(python3 -c 'import json, sys; r = json.load(open(sys.argv[1])); print(r["prompt_tokens"] + r["answer_tokens"])' "$folder/report.json")
echo "$drawn tokens drawn of $tokens, $held held, $shaded shaded"
[ "$drawn" = "$tokens" ] && [ "$held" -ge 512 ] && [ "$shaded" = "$held" ]
