#!/usr/bin/env bash
# Everything once, small: set-up, preprocessing, training, loss plot, scores. About 8 minutes on two CPU cores.
#
#   ./quickstart.sh              on a small dataset that it generates in demo/
#   ./quickstart.sh DATA_ROOT    on your own videos in DFDC layout (dfdc_train_part_*/ with metadata.json)
#
# Stopped, the same command goes on where it was.
set -euo pipefail
unset CDPATH

case ${1:-} in -h | --help) sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;; esac
[ $# -le 1 ] || { echo "quickstart.sh: one argument at most, the DATA_ROOT" >&2; exit 2; }
given=""
if [ $# -eq 1 ]; then
    given=$(cd -- "$1" 2>/dev/null && pwd) || { echo "quickstart.sh: there is no folder '$1'" >&2; exit 2; }
fi
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
started=$SECONDS

# 1. The environment.
./setup.sh
python=${VENV:-.venv}/bin/python

# 2. The data: a portrait, warped into people who talk, and face swaps of them. Part 0 will be held out.
data_root=${given:-demo}
[ -n "$given" ] || "$python" demo_data/make_demo_dataset.py --out demo

# 3. Videos -> boxes, crops, landmarks, masks, folds.
./preprocess_data.sh "$data_root"

# 4. One small classifier. The real thing is ./train.sh DATA_ROOT NUM_GPUS: five EfficientNet-B7.
printf '\ntraining a small network: 40 epochs, a few minutes\n'
"$python" training/train_classifier.py --config configs/demo.json --data-dir "$data_root" \
    --prefix quickstart_ --output-dir "$data_root/weights" --log-dir "$data_root/logs" --resume auto
run=$(basename "$(ls "$data_root"/weights/quickstart_*_best)" _best)

# 5. Its loss over the epochs, and the best epoch.
"$python" plot_loss.py --log-file "$data_root/logs/$run.log" --output "$data_root/loss.png" \
    --select 1 --select-file "$data_root/weights/selected.txt"

# 6. The held-out videos, scored from the video files as any folder would be.
printf '\nscoring the held-out videos\n'
"$python" predict_folder.py --weights-dir "$data_root/weights" --test-dir "$data_root" --fold 0 \
    --output "$data_root/submission.csv"

# 7. The result.
figures=$("$python" -c 'import json, sys
found = json.load(open(sys.argv[1]))["summary"]["metrics"]
print(found["count"], *("%.3f" % found.get(name, float("nan")) for name in ("log_loss", "auc")))' "$data_root/submission.json")
weights=$(printf %q "$data_root/weights") # as it can be pasted
read -r videos log_loss auc <<<"$figures"
cat <<END

Done in $((SECONDS - started)) s. This small network shows that everything works. It can't judge other people's faces.
Detectors for your own videos: README.md, "Score your videos" and "Train your own".

Also made:
  faces and crops  $data_root/report/index.html
  loss plot        $data_root/loss.png
  scores           $data_root/submission.csv   (details: $data_root/submission.json)
  training log     $data_root/logs/$run.log

held-out videos   $videos
log loss          $log_loss   (0.693 is chance, 0 is perfect)
AUC               $auc   (0.5 is chance, 1 is perfect)
verdict pages     $data_root/submission_report/index.html   (open it in a browser)
your turn         $python predict_folder.py --weights-dir $weights --test-dir YOUR_FOLDER
END
